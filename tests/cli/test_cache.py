"""`headway cache`: results that nobody uses can be seen and deleted; those in use stay."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from headway.cli.cache import app
from headway.core.progress import SILENT
from headway.shipping.store import Store, kept, ship_cache

_DAY = 86_400


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path))
    return Store(ship_cache(), SILENT)


def _made(store: Store, number: int, *, days: float) -> Path:
    """A result of 1,000 bytes that was last used so many days ago."""
    folder = store.stage("train", {"number": number}, lambda out, _: (out / "file").write_bytes(bytes(1000)) and None)
    os.utime(folder, (time.time() - days * _DAY,) * 2)
    return folder


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_is_kept_is_listed(store: Store) -> None:
    assert json.loads(_run("list", "--json"))["kinds"] == []
    _made(store, 1, days=40)
    _made(store, 2, days=0.5)
    told = json.loads(_run("list", "--json"))
    assert told == {
        "folder": str(ship_cache()),
        "kinds": [{"kind": "train", "results": 2, "bytes": 2000, "unused_days": 40.0}],
        "environments": [],
    }
    assert "train" in _run("list")


def test_only_what_was_not_used_is_deleted(store: Store) -> None:
    old, new, now = _made(store, 1, days=40), _made(store, 2, days=2), _made(store, 3, days=0)
    assert json.loads(_run("clear", "--json")) == {"removed": 1, "environments": 0, "bytes": 1000}
    assert [path.is_dir() for path in (old, new, now)] == [False, True, True]
    assert "removed 1 results" in _run("clear", "--unused", "0")
    assert [path.is_dir() for path in (old, new, now)] == [False, False, True], "within the hour it may be in use"


def test_asking_for_a_result_is_using_it(store: Store) -> None:
    folder = _made(store, 1, days=40)
    assert store.stage("train", {"number": 1}, lambda out, scratch: pytest.fail("made again")) == folder
    assert json.loads(_run("clear", "--json"))["removed"] == 0


def test_what_another_process_is_making_stays(store: Store) -> None:
    folder = _made(store, 1, days=40)
    code = "import sys; from filelock import FileLock; held = FileLock(sys.argv[1]).acquire(); print('held'); input()"
    lock = str(folder.with_suffix(".lock"))
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        assert json.loads(_run("clear", "--json"))["removed"] == 0
        other.stdin.write("\n")
    with FileLock(lock):
        pass
    assert json.loads(_run("clear", "--json"))["removed"] == 1


def test_a_removal_that_broke_off_leaves_no_half_result(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _made(store, 1, days=40)

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("headway.shipping.store.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kept(ship_cache())[0].remove()
    assert not folder.exists()
    assert len(kept(ship_cache())) == 1, "what is left of it is found again"
    assert kept(ship_cache())[0].remove()
    assert kept(ship_cache()) == []
