"""Machines and environments made of files, for the doctor to look at."""

from collections.abc import Mapping
from pathlib import Path

from headway.doctor.probe import Probe

GB = 1_000_000_000
CPU = "model name : Test CPU\nflags : sse4_1 avx avx2 fma {sets}"
KERNEL = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Sat Aug 19 01:15:15 UTC 2023\nGCC version: gcc"
SMI = '#!/bin/sh\necho "{row}"\nexit {code}\n'


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class Place:
    """A machine under a folder: `probe` looks at it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.sites, self.programs = folder / "root", folder / "site", folder / "bin"
        self.programs.mkdir(parents=True)
        self.sites.mkdir()
        self.free: int | None = None
        write(self.root / "proc/cpuinfo", CPU.format(sets=""))
        self.memory(8 * GB)

    @property
    def probe(self) -> Probe:
        """What looks at it."""
        kept = self.free
        chosen = {} if kept is None else {"free": lambda folder: kept}
        return Probe(self.root, (self.sites,), str(self.programs), **chosen)

    def memory(self, free: int, limit: int | None = None) -> None:
        """What is free, on the machine or under a container's limit."""
        write(self.root / "proc/meminfo", f"MemTotal: 16000000 kB\nMemAvailable: {free // 1024} kB\n")
        if limit is not None:
            write(self.root / "sys/fs/cgroup/memory.max", f"{limit}\n")

    def install(self, packages: Mapping[str, str], **requires: list[str]) -> None:
        """Metadata of packages by name; `requires` by name, with _ for -."""
        for name, version in packages.items():
            lines = [f"Requires-Dist: {text}" for text in requires.get(name.replace("-", "_"), [])]
            about = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines])
            write(self.sites / f"{name.replace('-', '_')}-{version}.dist-info/METADATA", about + "\n\n")

    def driver(self, version: str, row: str | None = None, code: int = 0) -> None:
        """NVIDIA's kernel module, and what `nvidia-smi` says."""
        write(self.root / "proc/driver/nvidia/version", KERNEL.format(driver=version))
        if row is not None:
            write(self.programs / "nvidia-smi", SMI.format(row=row, code=code)).chmod(0o755)

    def card(self, vendor: str = "0x10de") -> None:
        """A GPU on the bus."""
        device = self.root / "sys/bus/pci/devices/0000:01:00.0"
        write(device / "vendor", f"{vendor}\n")
        write(device / "class", "0x030000\n")
