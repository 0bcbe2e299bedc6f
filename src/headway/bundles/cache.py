"""A private folder of copies: of archives that were unpacked, and of bundles between check and load."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from headway.core.files import atomic_folder, home, make_folder, waiting

MOST_COPIES = 32
_IN_USE_S = 3600  # a copy that was asked for so recently may still be being loaded from


def cache_folder() -> Path:
    """Where copies are kept; only the user may look into it."""
    folder = home() / "cache" / "bundles"
    make_folder(folder, mode=0o700)
    return folder


def cached(key: str, fill: Callable[[Path], None], sound: Callable[[Path], bool]) -> Path:
    """The copy called `key`, filled when it is not there or not sound.

    A sound copy is never replaced: another process may be loading from it. One process fills at a time. Copies past
    `MOST_COPIES` that nobody asked for within an hour are removed, those first that were asked for longest ago.
    """
    folder = cache_folder() / key
    with waiting(cache_folder() / ".lock"):
        if folder.is_dir() and sound(folder):
            os.utime(folder)
        else:
            with atomic_folder(folder) as fresh:
                fill(fresh)
            _sweep()
    return folder


def _sweep() -> None:
    used = {folder: folder.stat().st_mtime for folder in cache_folder().iterdir() if folder.is_dir()}
    for folder in sorted(used, key=used.__getitem__, reverse=True)[MOST_COPIES:]:
        if used[folder] < time.time() - _IN_USE_S:
            shutil.rmtree(folder, ignore_errors=True)
