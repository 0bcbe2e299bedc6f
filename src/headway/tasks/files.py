"""A user's Python file as a module: `import headway.tasks.files.<name>` runs the file whose path the name spells.

A task that lives in a file is thereby importable under one stable name from any process, whatever its folder: what a
spawned worker unpickles finds its way back to the file, and two files of the same name do not collide. Importing from a
path is what `python FILE` does too; Headway does it only for the file that a recipe or the user's own process names.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

__path__: list[str] = []  # a module with a path may have modules under it


def module_name(path: Path) -> str:
    """The name under which the file at `path` is imported."""
    path = path.resolve()
    stem = "".join(letter if letter.isalnum() else "_" for letter in path.stem)
    return f"{__name__}.{stem}__{os.fsencode(path).hex()}"


class _Loader(SourceFileLoader):
    """Compiles the source each time: a cached `.pyc` beside a recipe would be litter, and could be stale."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, name = fullname.rpartition(".")
        if parent != __name__ or "__" not in name:
            return None
        place = os.fsdecode(bytes.fromhex(name.rpartition("__")[2]))
        return spec_from_file_location(fullname, place, loader=_Loader(fullname, place))


sys.meta_path.append(_Finder())
