"""Results of long work, kept by what they were made from.

A stage's key is a digest of everything that its result depends on: the data, the code, the settings, the versions of
what computes it. The same question is therefore answered once, and an interrupted ship goes on where it was.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from headway.core.errors import storage_errors
from headway.core.files import atomic_folder, digest_json, make_folder
from headway.core.progress import Progress

Build = Callable[[Path, Path], None]


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
        return folder.is_dir() and (not self._fresh or folder in self._made)
