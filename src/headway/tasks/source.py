"""The digest of a task's source: the file that defines it and the files beside it that it imports."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

_HEADWAY = Path(__file__).resolve().parents[1]


def digest_source(path: Path, module: str | None) -> str:
    """SHA-256 over `path` and every file it imports, directly or not, from the same package or folder.

    Imports are read from the source, and nothing is executed. Installed packages are not followed: their versions stand
    in the lineage.

    Args:
        path: the file that defines the task.
        module: its dotted name, or None for a file that stands alone.
    """
    path = path.resolve()
    parts = module.split(".") if module else [path.stem]
    package = path.name == "__init__.py"
    above = len(parts) if package else len(parts) - 1  # folders between the file and where its package lies
    root = path.parents[above] if module else path.parent
    own = root / parts[0] if above and module else root
    if own == _HEADWAY:
        own = _HEADWAY / "tasks"  # ours: of the rest, the version stands in the lineage
    if not above and "site-packages" in root.parts:
        return _digest([path], root)
    seen = {path}
    waiting = [path]
    while waiting:
        for found in _imported(waiting.pop(), root):
            if found not in seen and found.is_relative_to(own):
                seen.add(found)
                waiting.append(found)
    return _digest(sorted(seen), root)


def _digest(paths: list[Path], root: Path) -> str:
    total = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def _imported(path: Path, root: Path) -> Iterator[Path]:
    """The files under `root` that `path` imports, whether at its top or inside a function."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return  # the import that runs it will say so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else root
            names = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files(start, [*names, alias.name])


def _files(start: Path, names: list[str]) -> Iterator[Path]:
    """What importing `names` runs: every package on the way, and the module."""
    place = start
    for name in names:
        place = place / name
        for candidate in (place / "__init__.py", place.with_suffix(".py")):
            if candidate.is_file():
                yield candidate.resolve()
