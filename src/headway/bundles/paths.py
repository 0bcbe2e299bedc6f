"""Paths in a bundle: each is checked to stay inside it, and to be a plain file or folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from headway.core.errors import BundleError

MAX_FILES = 10_000
_MAX_LENGTH = 1000


def check_path(name: str, where: str) -> str:
    """Give back `name` if it is a relative path that stays inside.

    Raises:
        BundleError: absolute, with `..`, `.`, empty parts, backslashes, colons or control characters, or too long.
    """
    parts = name.split("/")
    unsafe = (
        not name
        or len(name) > _MAX_LENGTH
        or any(part in {"", ".", ".."} for part in parts)
        or any(character in "\\:" or ord(character) < 32 or ord(character) == 127 for character in name)
        or PurePosixPath(name).is_absolute()
    )
    if unsafe:
        raise BundleError(f"the path {name!r} does not stay inside the bundle or is not a plain name", where=where)
    return name


def contents(folder: Path) -> dict[str, int]:
    """Size in bytes of every file under `folder`, by its path relative to it.

    Raises:
        BundleError: there is a symbolic link, or something that is neither file nor folder, or too many files.
    """
    found: dict[str, int] = {}
    for path, status in _walk(folder, folder):
        if len(found) >= MAX_FILES:
            raise BundleError(f"more than {MAX_FILES} files", where=str(folder))
        found[path] = status.st_size
    return found


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            path = Path(entry.path)
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(path, root)
            elif stat.S_ISREG(status.st_mode):
                yield path.relative_to(root).as_posix(), status
            else:
                kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "neither a file nor a folder"
                raise BundleError(f"{path.relative_to(root).as_posix()} is {kind}", where=str(root))
