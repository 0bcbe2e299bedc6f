"""Broken environments, each made for real as far as files go: the doctor finds what is wrong, and nothing else."""

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.doctor.places import GB, Place, write

from headway.doctor.doctor import Report, examine
from headway.doctor.finding import Severity
from headway.doctor.system import listening

SRC = Path(__file__).parents[2] / "src"
SOUND = {"headway": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1"}


def wrong(report: Report) -> dict[str, Severity]:
    """What is not as it should be, as "area: what"."""
    return {f"{f.area}: {f.what}": f.severity for f in report.findings if f.severity is not Severity.OK}


@pytest.fixture
def sound(place: Place) -> Place:
    place.install(SOUND, headway=["numpy>=2.0", "onnxruntime>=1.20"])
    return place


def test_a_sound_machine(sound: Place) -> None:
    report = examine(probe=sound.probe)
    assert wrong(report) == {}
    assert report.verdict is Severity.OK
    assert "Test CPU" in report.findings[0].found
    assert json.loads(json.dumps(report.document()))["verdict"] == "ok"


def test_a_wrong_driver(sound: Place) -> None:
    sound.install({"torch": "2.13.0"})
    write(sound.sites / "torch/version.py", "cuda: Optional[str] = '13.0'\n")
    sound.driver("535.104.05", "NVIDIA A10, 535.104.05, 22731, 8.6")
    assert wrong(examine(probe=sound.probe)) == {"gpu: torch and the driver": Severity.FAIL}


@pytest.mark.parametrize(("free", "limit"), [(300_000_000, None), (8 * GB, 400_000_000)])
def test_too_little_memory(sound: Place, free: int, limit: int | None) -> None:
    sound.memory(free, limit)
    assert wrong(examine(probe=sound.probe)) == {"memory: memory": Severity.WARN}


def test_less_than_a_core(sound: Place) -> None:
    write(sound.root / "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert wrong(examine(probe=sound.probe)) == {"container: CPU quota": Severity.WARN}


def test_a_processor_without_avx2(sound: Place) -> None:
    write(sound.root / "proc/cpuinfo", "model name : Old CPU\nflags : sse4_1 avx\n")
    assert wrong(examine(probe=sound.probe)).get("cpu: processor") is Severity.WARN


def test_a_missing_library(sound: Place) -> None:
    (sound.sites / "onnxruntime-1.31.1.dist-info/METADATA").unlink()
    report = examine(probe=sound.probe)
    assert wrong(report) == {"packages: headway": Severity.FAIL}
    assert report.verdict is Severity.FAIL


def test_a_cache_that_cannot_be_written(sound: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere that permissions forbid, but not below a file and not in `/proc`."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file/home", Path("/proc/headway")):
        monkeypatch.setenv("HEADWAY_HOME", str(folder))
        report = examine(probe=sound.probe)
        assert wrong(report) == {"disk: HEADWAY_HOME": Severity.FAIL}
        assert all(f.fix for f in report.findings if f.severity is not Severity.OK)


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from headway.doctor.doctor import examine\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "print([f.found for f in examine().findings if f.area == 'disk' and f.severity == 'fail'])"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment(tmp_path)
    )
    assert "cannot be written" in asked.stdout


def test_no_disk(sound: Place) -> None:
    sound.free = 10_000_000
    assert wrong(examine(probe=sound.probe)) == {"disk: HEADWAY_HOME": Severity.WARN}


def test_too_few_open_files(sound: Place) -> None:
    code = (
        "import resource; from headway.doctor.system import _descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)); print(_descriptors()[0].severity)"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "warn"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 512


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert listening(port)
    assert not listening(port)


def test_with_a_library_hidden_the_command_says_so_and_imports_no_engine(tmp_path: Path) -> None:
    """The real environment, but for one package: its files and metadata are links to all the others."""
    (real,) = [Path(folder) for folder in sys.path if (Path(folder) / "onnxruntime").is_dir()]
    hidden = tmp_path / "site"
    hidden.mkdir()
    for entry in real.iterdir():
        if not entry.name.lower().startswith(("pillow", "pil", "onnxruntime", "flatbuffers")):
            (hidden / entry.name).symlink_to(entry)
    code = (
        "import sys; from headway.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    print(*{'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    )
    asked = subprocess.run(
        [sys.executable, "-S", "-c", code, "doctor", str(SRC.parent / "examples/digits.yaml"), "--json"],
        capture_output=True, text=True, check=False, env=_environment(tmp_path) | {"PYTHONPATH": f"{SRC}:{hidden}"},
    )  # fmt: skip
    assert asked.returncode == 4, asked.stderr
    assert asked.stderr.strip() == ""
    found = {f["what"]: f for f in json.loads(asked.stdout)["findings"]}
    assert found["headway"]["severity"] == "fail"
    assert "onnxruntime" in found["headway"]["found"]
    assert found["headway[images]"]["found"].startswith("not installed")


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HEADWAY_HOME": str(folder / "home"), "COLUMNS": "200"}
