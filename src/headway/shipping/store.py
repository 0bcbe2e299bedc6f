"""Results of long work, kept by what they were made from.

A stage's key is a digest of everything that its result depends on: the data, the code, the settings, the versions of
what computes it. The same question is therefore answered once, and an interrupted ship goes on where it was.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from headway.core.errors import storage_errors
from headway.core.files import atomic_folder, digest_json, home, make_folder
from headway.core.progress import Progress

Build = Callable[[Path, Path], None]
_IN_USE_S = 3600  # a result that was asked for so recently may still be read by the ship that asked
_GONE = ".gone"


def ship_cache() -> Path:
    """Where `ship` keeps its results."""
    return home() / "cache" / "ship"


class Store:
    """Folders of results under one root.

    Args:
        root: where they lie.
        progress: told when another process is making the same thing.
        fresh: make everything anew, and replace what is kept.
    """

    def __init__(self, root: Path, progress: Progress, *, fresh: bool = False) -> None:
        self.root = root
        self._progress = progress
        self._fresh = fresh
        self._made: set[Path] = set()

    def stage(self, kind: str, key: Mapping[str, Any], build: Build) -> Path:
        """The folder made by `build(out, scratch)`, which runs only if no result for `key` is kept.

        Args:
            kind: of stage; a folder of its own.
            key: plain JSON, everything that the result depends on.
            build: fills `out`, which appears whole or not at all; may keep what it needs to resume in `scratch`.
        """
        folder = self.root / kind / digest_json(key)[:32]
        if self._kept(folder):
            return folder
        scratch = folder.with_suffix(".work")
        make_folder(scratch)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            self._progress.say(f"waiting for another process that is making the same {kind}")
            lock.acquire()
        try:
            if not self._kept(folder):
                with storage_errors(), atomic_folder(folder) as out:
                    build(out, scratch)
                shutil.rmtree(scratch, ignore_errors=True)
                self._made.add(folder)
        finally:
            lock.release()
        return folder

    def _kept(self, folder: Path) -> bool:
        if not folder.is_dir() or (self._fresh and folder not in self._made):
            return False
        os.utime(folder)
        return True


@dataclass(frozen=True)
class Kept:
    """A result in a store, or what an interrupted stage left to resume from.

    Attributes:
        kind: of stage.
        size: of its files, in bytes.
        used: when it was last asked for, in seconds since 1970.
    """

    kind: str
    folder: Path
    size: int
    used: float

    def remove(self) -> bool:
        """Delete it, unless it is being made or may be in use; whether it is gone."""
        if self.used > time.time() - _IN_USE_S:
            return False
        lock = FileLock(self.folder.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        with lock:
            gone = self.folder.with_suffix(_GONE)  # never half a result under its name
            self.folder.rename(gone)
            shutil.rmtree(gone)
        return True


def kept(root: Path) -> list[Kept]:
    """Everything that a store keeps, longest unused first."""
    folders = [path for path in root.glob("*/[!.]*") if path.is_dir()]
    found = [Kept(path.parent.name, path, _size(path), path.stat().st_mtime) for path in folders]
    return sorted(found, key=lambda one: one.used)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
