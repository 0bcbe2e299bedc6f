"""Files appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headway.core.errors import BusyError, StorageError, storage_errors
from headway.core.files import atomic_folder, digest_json, exclusive, home, make_folder, write_atomic


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with atomic_folder(path) as fresh:
        (fresh / "a").write_text("old")
    with pytest.raises(StorageError, match="not a folder"), atomic_folder(path) as fresh:
        _write_and_fail(fresh)
    assert (path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    with atomic_folder(path) as fresh:
        (fresh / "b").write_text("new")
    assert [p.name for p in path.iterdir()] == ["b"]


def _write_and_fail(folder: Path) -> None:
    (folder / "a").write_text("new")
    (folder / "a" / "b").write_text("a file has no children")


def test_a_full_disk_is_a_message() -> None:
    with pytest.raises(StorageError, match="no space left") as caught, storage_errors():
        Path("/dev/full").write_bytes(b"x")
    assert caught.value.exit_code == 2


def test_other_os_errors_pass_through() -> None:
    with pytest.raises(OSError, match="nothing we know"), storage_errors():
        raise OSError(errno.EPIPE, "nothing we know")


_HOLD = """
import sys
from pathlib import Path
from headway.core.files import exclusive
with exclusive(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_hold_one_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="another process"):
            exclusive(lock, "the folder").__enter__()
        other.communicate("")
    with exclusive(lock, "the folder"):
        pass


def test_digest_ignores_key_order() -> None:
    assert digest_json({"a": 1, "b": [1.5, None]}) == digest_json({"b": [1.5, None], "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        digest_json(float("nan"))


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("HEADWAY_HOME")
    assert home().name == "headway"
    assert os.environ.get("HEADWAY_HOME") is None


@pytest.mark.parametrize("given", ["file", "file/below", "loop", "x" * 300, "~nobody-of-that-name"])
def test_a_home_that_can_be_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("HEADWAY_HOME", given if given[0] == "~" else str(tmp_path / given))
    with pytest.raises(StorageError) as caught:
        home()
    assert "HEADWAY_HOME=" in str(caught.value.where)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a file system in which nothing can be made")
def test_a_folder_that_cannot_be_made_there() -> None:
    with pytest.raises(StorageError):
        make_folder(Path("/proc/headway/registry"))


def test_a_name_that_is_too_long_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="too long"):
        write_atomic(tmp_path / ("x" * 300), "text")
