"""A private folder of copies: of archives that were unpacked, and of bundles between check and load."""

from collections.abc import Callable
from pathlib import Path

from headway.core.files import atomic_folder, home, make_folder, waiting


def cache_folder() -> Path:
    """Where copies are kept; only the user may look into it."""
    folder = home() / "cache" / "bundles"
    make_folder(folder, mode=0o700)
    return folder


def cached(key: str, fill: Callable[[Path], None], sound: Callable[[Path], bool]) -> Path:
    """The copy called `key`, filled when it is not there or not sound.

    A sound copy is never replaced: another process may be loading from it. One process fills at a time.
    """
    folder = cache_folder() / key
    with waiting(cache_folder() / ".lock"):
        if not (folder.is_dir() and sound(folder)):
            with atomic_folder(folder) as fresh:
                fill(fresh)
    return folder
