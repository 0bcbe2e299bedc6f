"""Environments of their own: whole or not at all, made once, told when they cannot be; real venvs, a wheel of ours."""

import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from headway.core.errors import MissingDependencyError, UsageError, WorkerError
from headway.core.progress import Bar, Silent
from headway.export.environments import environment as environments_
from headway.export.environments.environment import Python, environment, environments, kept, packages, ready

# A process that makes the environment; told to, it holds still at the first package until its input ends.
MAKER = """
import sys
from contextlib import contextmanager
from pathlib import Path
from headway.core.progress import Silent
from headway.export.environments.environment import environment

class Told(Silent):
    def say(self, text):
        print(text.split()[0], flush=True)
    @contextmanager
    def work(self, title, total):
        yield self
    def advance(self, amount=1, note=""):
        if note == "tiny":
            print("under way", flush=True)
            sys.stdin.read()

print(environment("tiny", Told(), lock=Path(sys.argv[1])).folder)
"""


class Bars(Silent):
    """Every title with its total, and every note."""

    def __init__(self) -> None:
        self.works: list[tuple[str, float]] = []
        self.notes: list[str] = []
        self.amount = 0.0

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        self.works.append((title, total))
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.amount += amount
        self.notes += [note] if note else []


@pytest.fixture(autouse=True)
def _local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: pip looks into the test's folder alone."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def lock(tmp_path: Path, home: Path) -> Path:
    """A lock of one package, whose wheel lies beside it."""
    about = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
    info = "tiny-1.0.dist-info"
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny.py", "ANSWER = 42\n")
        file.writestr(f"{info}/METADATA", about)
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    path = tmp_path / "tiny.txt"
    path.write_text(f"# a lock\ntiny==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return path


@contextmanager
def maker(lock: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", MAKER, str(lock)]
    pipes = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipes, stdout=pipes, stderr=pipes, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def left() -> list[str]:
    """What lies where environments do, but for locks."""
    return sorted(path.name for path in environments().iterdir() if path.name != ".locks")


@pytest.mark.slow
def test_it_is_made_once_and_works(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ready("tiny", lock) is None
    half = environments() / f".{environments_._folder('tiny', lock).name}.new-abc"
    half.mkdir(parents=True)  # of a process that was killed
    bars = Bars()
    python = environment("tiny", bars, lock=lock)
    assert (bars.works, bars.amount) == ([("environment tiny: 1 packages", 2)], 2)
    assert bars.notes[0] == "tiny", "pip's own output moves the bar"
    assert left() == [python.folder.name]
    assert ready("tiny", lock) == python == environment("tiny", bars, lock=lock)
    assert len(bars.works) == 1, "the second time nothing is made"
    assert [(one.name, one.folder) for one in kept()] == [("tiny", python.folder)]
    assert kept()[0].size > 1_000_000
    assert not kept()[0].remove(), "it may be in use"

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, tiny\n"
        "try:\n    import headway\nexcept ModuleNotFoundError:\n    alone = True\n"
        "print(json.dumps({'done': 1, 'of': 4})); print('a library chatters')\n"
        "print(json.dumps({'answer': tiny.ANSWER, 'alone': alone, 'given': sys.argv[1:]}))\n"
    )
    bars = Bars()
    assert python.run(script, "a", tmp_path, title="work", progress=bars) == {
        "answer": 42, "alone": True, "given": ["a", str(tmp_path)],
    }  # fmt: skip
    assert (bars.works, bars.amount) == ([("work", 1)], 0.25)

    script.write_text("import sys; print('first', file=sys.stderr); sys.exit('the file is odd')")
    with pytest.raises(WorkerError, match="the file is odd") as raised:
        python.run(script)
    log = Path(str(raised.value.remedy).rpartition(": ")[2])
    assert log.read_text() == "first\nthe file is odd\n"
    script.write_text('print(\'{"done": 1, "of": 2}\')')
    with pytest.raises(WorkerError, match="ended with code 0 and said nothing"):
        python.run(script)

    os.utime(python.folder, (0, 0))
    assert kept()[0].remove()
    assert left() == []


@pytest.mark.slow
def test_two_processes_make_one(lock: Path) -> None:
    with maker(lock) as first:
        assert [line(first), line(first)] == ["making", "under way"]
        with maker(lock) as second:
            assert line(second) == "waiting"
            made, _ = first.communicate()
            got, errors = second.communicate()
    assert made == got, errors
    assert (first.returncode, second.returncode) == (0, 0)
    assert left() == [Path(made.strip()).name]


@pytest.mark.slow
def test_an_interrupted_one_leaves_nothing(lock: Path) -> None:
    with maker(lock) as process:
        assert [line(process), line(process)] == ["making", "under way"]
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(left()) == 1, "it is made aside"
        assert kept() == []
        process.send_signal(signal.SIGINT)
        process.wait()
    assert not [child for child in children if child.is_running()]
    assert left() == []
    assert ready("tiny", lock) is None


@pytest.mark.slow
def test_what_cannot_be_installed_is_told_and_leaves_nothing(lock: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("lacking==3.1 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(MissingDependencyError, match="No matching distribution found for lacking") as raised:
        environment("other", lock=other)
    assert "PIP_INDEX_URL" in str(raised.value)
    assert left() == []
    other.write_text(lock.read_text().replace("sha256:", "sha256:0")[:-2] + "\n")
    with pytest.raises(MissingDependencyError, match="DO NOT MATCH"):
        environment("other", lock=other)
    assert left() == []
    with pytest.raises(UsageError, match="One of: nncf"):
        environment("abacus")


def test_a_script_ends_with_the_one_who_asked(tmp_path: Path, home: Path) -> None:
    home.mkdir()
    script = tmp_path / "endless.py"
    script.write_text(
        'import os, sys, time; print(\'{"done": %d, "of": 1}\' % os.getpid(), flush=True); sys.stdin.read()'
    )
    script.write_text(script.read_text().replace("sys.stdin.read()", "time.sleep(3600)"))
    seen: list[float] = []

    class Interrupts(Bars):
        def advance(self, amount: float = 1, note: str = "") -> None:
            seen.append(amount)
            raise KeyboardInterrupt

    folder = tmp_path / "made"  # an environment has its interpreter there; this one's is the test's
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(KeyboardInterrupt):
        Python(folder).run(script, progress=Interrupts())
    assert not psutil.pid_exists(int(seen[0]))


def test_every_lock_of_ours_pins_and_hashes_every_package() -> None:
    for name in environments_.known():
        text = (environments_.HERE / f"{name}.txt").read_text()
        found = packages(environments_.HERE / f"{name}.txt")
        assert found
        assert all("==" in package for package in found)
        blocks = text.replace("\\\n", " ").splitlines()
        assert all("--hash=sha256:" in block for block in blocks if block and not block.startswith("#"))
    assert "nncf==3.4.0" in packages(environments_.HERE / "nncf.txt")


def test_an_environment_of_another_python_is_another(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = environments_._folder("tiny", lock)
    monkeypatch.setattr(sys, "version", "4.0")
    assert environments_._folder("tiny", lock) != here
    assert here.name.startswith("tiny-")
