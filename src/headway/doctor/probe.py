"""Where the doctor looks: files of the kernel, installed packages, programs. Nothing that it finds is imported."""

import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from headway.core.cgroup import read


class Package(NamedTuple):
    """An installed distribution, and what its own metadata says that it requires (PEP 508)."""

    version: str
    requires: tuple[str, ...]


def _sites() -> tuple[Path, ...]:
    return tuple(Path(folder) for folder in sys.path)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Probe:
    """A machine and an environment; by default the ones that this process is in.

    Attributes:
        root: the folder that `proc`, `sys`, `dev` and `usr` are read from.
        sites: folders of Python packages, as in `sys.path`.
        path: folders of programs, as in `PATH`; None for this process's.
        free: bytes that are free where a folder is.
    """

    root: Path = Path("/")
    sites: tuple[Path, ...] = ()
    path: str | None = None
    free: Callable[[Path], int] = _free

    @cached_property
    def packages(self) -> dict[str, Package]:
        """By normalised name; of two with one name, the one that an import would find."""
        found: dict[str, Package] = {}
        for distribution in distributions(path=[str(site) for site in self.sites or _sites()]):
            about = distribution.metadata
            name, version = about["Name"], about["Version"]
            if name and version:  # a folder that an uninstall left behind has neither
                required = tuple(about.get_all("Requires-Dist") or ())
                found.setdefault(canonicalize_name(name), Package(version, required))
        return found

    def package_text(self, file: str) -> str:
        """The text of a file of an installed package, such as `torch/version.py`; "" where there is none."""
        return next((text for site in self.sites or _sites() if (text := read(site / file))), "")

    def files(self, *patterns: str) -> Iterable[Path]:
        """The files under `root` that match one of the patterns."""
        return (file for pattern in patterns for file in sorted(self.root.glob(pattern)))

    def program(self, name: str) -> str | None:
        """Where a program is."""
        return shutil.which(name, path=self.path)
