"""What a run stands on: code, packages, and the files of its data."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from headway.core.files import is_file, is_folder


def git_commit(folder: Path) -> str:
    """The commit checked out in `folder`, with "+changes" where files differ from it; "" outside a repository."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if head and _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def packages() -> dict[str, str]:
    """Name and version of every distribution installed here."""
    return {d.name.lower(): d.version for d in sorted(distributions(), key=lambda d: d.name.lower())}


def data_files(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Each file or folder with the MD5 that DVC gives it, and whether its `.dvc` file says the same.

    The hash is that of DVC 3: of a file, over its bytes; of a folder, over the JSON list of its files' hashes and
    relative paths, with ".dir" at its end. `dvc` is "same", "differs" or, without a `.dvc` file, None.
    """
    found = []
    for path in sorted({path.resolve() for path in paths if is_file(path) or is_folder(path)}):
        digest, size = _folder(path) if is_folder(path) else (_md5(path), path.stat().st_size)
        said = _said(path)
        dvc = None if said is None else "same" if said == digest else "differs"
        found.append({"path": str(path), "md5": digest, "size": size, "dvc": dvc})
    return found


def named(arguments: Mapping[str, Any], base: Path) -> list[Path]:
    """What a task's arguments may name under `base`, or by a whole path; a folder around `base` is no data."""
    paths = [base / value for value in arguments.values() if isinstance(value, str) and "\0" not in value]
    return [path for path in paths if path.resolve() not in (base.resolve(), *base.resolve().parents)]


def _git(folder: Path, *words: str) -> str:
    asked = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _folder(path: Path) -> tuple[str, int]:
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listed = [{"md5": _md5(file), "relpath": name} for name, file in files]
    text = json.dumps(listed, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir", sum(f.stat().st_size for _, f in files)


def _said(path: Path) -> str | None:
    """The MD5 in the `.dvc` file beside `path`, where there is one that can be read."""
    try:
        content = yaml.safe_load(path.with_name(path.name + ".dvc").read_text(encoding="utf-8"))
        return next((str(out["md5"]) for out in content["outs"] if out["path"] == path.name), None)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
