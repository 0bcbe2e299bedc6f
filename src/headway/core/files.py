"""Files that appear whole or not at all, and digests of what is in them."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from headway.core.errors import BusyError, storage_errors


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write `data` beside `path`, fsync, and rename over it: a reader sees the old file or the new one."""
    with storage_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
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
        path.parent.mkdir(parents=True, exist_ok=True)
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
def atomic_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `path` when the block ends without an error.

    What stood at `path` before is kept until the new folder stands there, and is kept for good if the block raises.
    """
    with storage_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
        old = fresh.with_name(fresh.name.replace(".new-", ".old-"))
        try:
            fresh.chmod(0o755)
            yield fresh
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
    with storage_errors():
        lock.parent.mkdir(parents=True, exist_ok=True)
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


def digest_file(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: keys sorted, no spaces, NaN refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def home() -> Path:
    """Where Headway keeps its state: `HEADWAY_HOME`, or the platform's folder for user data."""
    if given := os.environ.get("HEADWAY_HOME"):
        return Path(given).expanduser().resolve()
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
