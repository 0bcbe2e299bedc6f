"""An environment of its own for packages that quarrel with ours or weigh much, made on first use from its lock.

`NAME.txt` beside this file is the lock: every package with its version and the digests of its files, as pip takes it.
Scripts that stand alone do the work there: files in, files out, JSON on stdout, a document a line. Those before the
last say how far the work is, as `{"done": 3, "of": 40}`; the last one is the result.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from headway.core.errors import MissingDependencyError, UsageError, WorkerError
from headway.core.files import atomic_folder, home, is_file, waiting, write_atomic
from headway.core.progress import SILENT, Bar, Progress

HERE = Path(__file__).parent
_TOLD = 8  # last lines of pip's that an error shows
_GONE = ".gone"
_IN_USE_S = 3600  # what was asked for so recently may still be working
_PACKAGE = re.compile(r"(?:Collecting|Processing) (?:\S*/)?([\w.]+(?:-[a-z]\w*)*)")  # one of an index, or of a folder


@dataclass(frozen=True)
class Python:
    """The interpreter of an environment.

    Attributes:
        folder: of the environment.
    """

    folder: Path

    @property
    def executable(self) -> Path:
        """What runs a script there."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(self, script: Path, *arguments: str | Path, title: str = "", progress: Progress = SILENT) -> dict[str, Any]:
        """Run a script that stands alone, and wait for its result; it ends with this process's Ctrl-C.

        Args:
            script: sees nothing of ours: neither packages nor `PYTHON*` variables.
            arguments: of its command line.
            title: of the work, where it is shown.
            progress: told of the script's progress.

        Returns:
            The last document that it printed.

        Raises:
            WorkerError: it failed; with the last line of its stderr, all of which is kept beside the environment.
        """
        command = [str(self.executable), "-I", str(script), *map(str, arguments)]
        result: dict[str, Any] = {}
        with tempfile.TemporaryFile() as errors, progress.work(title or script.stem, 1) as bar:
            at = 0.0
            with _child(command, stderr=errors) as process:
                for line in (line for line in _lines(process) if line.startswith("{")):
                    result = json.loads(line)
                    if "of" in result:
                        now = result["done"] / result["of"]
                        bar.advance(now - at)
                        at = now
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        if process.returncode or not result or "of" in result:
            kept = self.folder.with_suffix(".log")
            write_atomic(kept, said)
            last = (said.strip().splitlines() or [f"it ended with code {process.returncode} and said nothing"])[-1]
            raise WorkerError(last, where=script.stem, remedy=f"All that it said: {kept}")
        return result


def environments() -> Path:
    """Where they lie."""
    return home() / "environments"


def known() -> list[str]:
    """Those that have a lock here."""
    return sorted(lock.stem for lock in HERE.glob("*.txt"))


def ready(name: str, lock: Path | None = None) -> Python | None:
    """The environment where it is made already, and None where it is not: nothing is made."""
    found = Python(_folder(name, lock or HERE / f"{name}.txt"))
    return found if is_file(found.executable) else None


def environment(name: str, progress: Progress = SILENT, *, lock: Path | None = None) -> Python:
    """The environment, made where it is not there: whole or not at all, and once where two processes ask.

    Args:
        name: one of `known()`.
        progress: told of packages as they come.
        lock: its lock; by default ours of that name.

    Raises:
        UsageError: nobody knows an environment of that name.
        MissingDependencyError: it cannot be made: without network, without the `venv` module, without space for pip.
        StorageError: it cannot be written.
    """
    lock = lock or HERE / f"{name}.txt"
    if not lock.is_file():
        raise UsageError(f"there is no environment {name!r}", remedy=f"One of: {', '.join(known())}.")
    if (found := ready(name, lock)) is not None:
        return _used(found)
    folder = _folder(name, lock)
    with waiting(_lock(folder), lambda: progress.say(f"waiting for another process that makes the environment {name}")):
        if (found := ready(name, lock)) is not None:
            return _used(found)
        for left in folder.parent.glob(f".{folder.name}.*-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        progress.say(f"making the environment {name} in {folder}, once")
        with atomic_folder(folder, many=True) as fresh:
            _make(Python(fresh), name, lock, progress)
    return Python(folder)


def packages(lock: Path) -> list[str]:
    """What a lock holds, as `name==version`."""
    lines = (line.strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return [line.split()[0] for line in lines if line and not line.startswith(("#", "-"))]


@dataclass(frozen=True)
class Kept:
    """An environment that is made.

    Attributes:
        size: of its files, in bytes.
        used: when it was last asked for, in seconds since 1970.
    """

    folder: Path
    size: int
    used: float

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return self.folder.name.rpartition("-")[0]

    def remove(self) -> bool:
        """Delete it, unless somebody is making it or may be using it; whether it is gone."""
        if self.used > time.time() - _IN_USE_S:
            return False
        try:
            with FileLock(_lock(self.folder), timeout=0):
                gone = self.folder.with_suffix(_GONE)  # never half an environment under its name
                self.folder.rename(gone)
                shutil.rmtree(gone)
        except Timeout:
            return False
        self.folder.with_suffix(".log").unlink(missing_ok=True)
        return True


def kept() -> list[Kept]:
    """All that are made, longest unused first."""
    folders = [path for path in environments().glob("[!.]*") if path.is_dir()]
    sizes = [sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) for folder in folders]
    found = [Kept(folder, size, folder.stat().st_mtime) for folder, size in zip(folders, sizes, strict=True)]
    return sorted(found, key=lambda one: one.used)


def _folder(name: str, lock: Path) -> Path:
    """Another lock, another Python or another place of its Python is another environment."""
    if not lock.is_file():
        return environments() / name
    told = "\n".join([lock.read_text(encoding="utf-8"), sys.version, sys.base_prefix])
    return environments() / f"{name}-{sha256(told.encode()).hexdigest()[:16]}"


def _lock(folder: Path) -> Path:
    return folder.parent / ".locks" / folder.name


def _used(python: Python) -> Python:
    os.utime(python.folder, (time.time(), time.time()))
    return python


def _make(python: Python, name: str, lock: Path, progress: Progress) -> None:
    """Fill a folder. pip of the new environment installs into it; its configuration is the user's, such as mirrors."""
    wanted = packages(lock)
    pip = [str(python.executable), "-I", "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
    pip += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile", "-r", str(lock)]
    with progress.work(f"environment {name}: {len(wanted)} packages", len(wanted) + 1) as bar:
        _say([sys.executable, "-I", "-m", "venv", str(python.folder)], name, bar, 0)
        _say(pip, name, bar, len(wanted))
        bar.advance(1)


def _say(command: Sequence[str], name: str, bar: Bar, steps: int) -> None:
    """Run one command, and move the bar by a step for each package that pip turns to."""
    said: list[str] = []
    with _child(command, stderr=subprocess.STDOUT) as process:
        for line in _lines(process):
            said.append(line)
            if steps and (found := _PACKAGE.match(line.strip())):
                bar.advance(1, found[1])
                steps -= 1
            elif line.startswith("Installing"):
                bar.advance(0, "installing")
    bar.advance(steps if process.returncode == 0 else 0)
    if process.returncode:
        last = "\n  ".join(line for line in said[-_TOLD:] if line.strip())
        raise MissingDependencyError(
            f"the environment {name!r} cannot be made; the last that was said:\n  {last or 'nothing'}",
            where=str(environments()),
            remedy="It is installed by pip from the index that pip is set to: try again with a network, or set"
            " PIP_INDEX_URL, or PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder that holds the packages.",
        )


@contextmanager
def _child(command: Sequence[str], stderr: Any) -> "Iterator[subprocess.Popen[str]]":
    """A process that does not outlive the block, however that ends."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace"
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None  # noqa: S101  (it is a pipe)
    yield from process.stdout
    process.wait()
