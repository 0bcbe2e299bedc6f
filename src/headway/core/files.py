"""Files that appear whole or not at all, and digests of what is in them."""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from headway.core.errors import BusyError, StorageError, storage_errors


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write `data` beside `path`, fsync, and rename over it: a reader sees the old file or the new one."""
    with storage_errors():
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    For what is too large for `write_atomic`.
    """
    with storage_errors():
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        fresh = Path(name)
        try:
            yield fresh
            _sync_file(fresh)
            fresh.chmod(0o644)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path, *, many: bool = False) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `path` when the block ends without an error.

    What stood at `path` before is kept until the new folder stands there, and is kept for good if the block raises.
    Of `many` files, all that the system has not written yet is, once: to ask that for each of 10,000 takes half a
    minute.
    """
    with storage_errors():
        make_folder(path.parent)
        fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
        old = fresh.with_name(fresh.name.replace(".new-", ".old-"))
        try:
            fresh.chmod(0o755)
            yield fresh
            if many and hasattr(os, "sync"):
                os.sync()
            else:
                for file in fresh.rglob("*"):
                    if file.is_file():
                        _sync_file(file)
            if path.exists():
                path.rename(old)
            try:
                fresh.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def exclusive(lock: Path, what: str) -> Iterator[None]:
    """Hold `lock` for the block, or raise `BusyError` at once: two processes never write the same thing."""
    make_folder(lock.parent)
    with storage_errors(creating=True):
        held = FileLock(lock)
        try:
            held.acquire(blocking=False)
        except Timeout as error:
            raise BusyError(
                "another process is working on it", where=what, remedy="Wait for it to end, or choose another folder."
            ) from error
    try:
        yield
    finally:
        held.release()


@contextmanager
def waiting(lock: Path, busy: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold `lock` for the block, once no other process does; where one does, `busy` is called first."""
    make_folder(lock.parent)
    held = FileLock(lock)
    with storage_errors(creating=True):
        try:
            held.acquire(blocking=False)
        except Timeout:
            busy()
            held.acquire()
    try:
        yield
    finally:
        held.release()


def make_folder(path: Path, *, mode: int | None = None) -> None:
    """Make a folder and its parents, where they are not there; `mode` is set in either case.

    Raises:
        StorageError: there can be none.
    """
    with storage_errors(creating=True):
        path.mkdir(parents=True, exist_ok=True)
        if mode is not None:
            path.chmod(mode)


def is_file(path: Path) -> bool:
    """Whether there is such a file; unlike `Path.is_file`, no error for a name that is too long or not allowed."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; see `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


def folder_lock(folder: Path) -> Path:
    """The lock of an output folder, for `exclusive`: under `home()`, so that nothing is put beside the folder."""
    return home() / "locks" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]}.lock"


def digest_file(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: keys sorted, no spaces, NaN refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def home() -> Path:
    """Where Headway keeps its state: `HEADWAY_HOME`, or the platform's folder for user data.

    Raises:
        StorageError: `HEADWAY_HOME` names something else than a folder that is there or can be made.
    """
    if given := os.environ.get("HEADWAY_HOME"):
        try:
            path = Path(given).expanduser().resolve()
            if stat.S_ISDIR(path.stat().st_mode):
                return path
            reason = "not a folder"
        except FileNotFoundError:
            return path
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        except RuntimeError as error:  # `~nobody`, or symbolic links in a circle
            reason = str(error)
        raise StorageError(reason, where=f"HEADWAY_HOME={given}", remedy="Set HEADWAY_HOME to a folder of your own.")
    from platformdirs import user_data_path

    return user_data_path("headway", appauthor=False)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder to sync it
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
