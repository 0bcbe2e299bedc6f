"""Where the registry keeps bundles: a folder, or any store that fsspec reaches, by the bundle's digest."""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from headway.bundles.bundle import MANIFEST
from headway.bundles.cache import cached
from headway.bundles.paths import contents
from headway.core.errors import BundleError
from headway.core.files import atomic_folder


class Store:
    """Bundles by digest. Each is there whole or not at all.

    Args:
        url: a folder, or what fsspec makes of a URL (`s3://bucket/path`).
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self._files: Any
        self._files, root = url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._folder = Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def __contains__(self, digest: str) -> bool:
        if self._folder is not None:
            return (self._folder / digest / MANIFEST).is_file()
        return bool(self._files.exists(self._at(digest, MANIFEST)))

    def put(self, source: Path, digest: str, check: Callable[[Path], None]) -> None:
        """Keep a copy of the folder `source`; `check` is called with the copy, and what it raises keeps it out."""
        if self._folder is not None:
            with atomic_folder(self._folder / digest) as fresh:
                shutil.copytree(source, fresh, symlinks=True, dirs_exist_ok=True)
                check(fresh)
            return
        check(source)
        # An object store renames nothing: the manifest comes last, and without it nothing is there.
        for name in sorted(contents(source), key=lambda name: (name == MANIFEST, name)):
            self._files.put_file(str(source / name), self._at(digest, name))

    def folder(self, digest: str) -> Path:
        """The bundle as a folder on this machine. Raises `BundleError` where it is not kept."""
        if digest not in self:
            raise BundleError("the registry knows this bundle, but its files are gone", where=self._at(digest))
        if self._folder is not None:
            return self._folder / digest
        return cached(digest, lambda fresh: self._fetch(digest, fresh), lambda folder: (folder / MANIFEST).is_file())

    def remove(self, digest: str) -> None:
        """Remove a bundle; it is gone at once, even if deleting its files takes long."""
        if digest not in self:
            return
        if self._folder is not None:
            gone = self._folder / f".gone-{digest}"
            shutil.rmtree(gone, ignore_errors=True)
            (self._folder / digest).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            return
        self._files.rm_file(self._at(digest, MANIFEST))
        self._files.rm(self._at(digest), recursive=True)

    def sweep(self, keep: Collection[str]) -> None:
        """Remove what a process that was killed left behind: all but `keep`. Nobody else may be writing meanwhile."""
        if self._folder is not None and self._folder.is_dir():
            for folder in self._folder.iterdir():
                if folder.name not in keep:
                    shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, digest: str, fresh: Path) -> None:
        root = self._at(digest)
        for name in self._files.find(root):
            inside = fresh / str(name).removeprefix(root).lstrip("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(name, str(inside))

    def _at(self, *parts: str) -> str:
        return "/".join((self._root, *parts))
