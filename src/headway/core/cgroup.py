"""What a container may use: the limits of Linux control groups, of version 1 and 2.

https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
A group is bound by every group above it, so all of them are read.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_UNLIMITED = 1 << 60  # version 1 writes the largest number of pages where there is no limit


class Limits(NamedTuple):
    """What this process's groups allow; None for no limit.

    Attributes:
        memory: bytes.
        memory_free: bytes that can still be taken. Cached files, which the kernel drops on demand, count as free.
        cores: CPU seconds a second.
    """

    memory: int | None = None
    memory_free: int | None = None
    cores: float | None = None


class _Names(NamedTuple):
    """The files of one version's memory controller, and the key of cached files in its `memory.stat`."""

    limit: str
    usage: str
    cached: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of the groups that this process is in.

    Args:
        root: the folder that `proc` and `sys` are read from.
    """
    base, own = root / "sys/fs/cgroup", _own_groups(root)
    memory: list[tuple[int, int]] = []
    cores: list[float] = []
    for folder in _upwards(base, own.get("", "/")):
        memory += _memory(folder, _V2)
        cores += _cores(read(folder / "cpu.max").split())
    for folder in _upwards(base / "memory", own.get("memory", "/")):
        memory += _memory(folder, _V1)
    for folder in _upwards(base / "cpu", own.get("cpu", "/")):
        cores += _cores([read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])
    return Limits(
        memory=min((limit for limit, _ in memory), default=None),
        memory_free=min((free for _, free in memory), default=None),
        cores=min(cores, default=None),
    )


def read(path: Path) -> str:
    """The text of a file of the kernel's; "" where it is not there or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _own_groups(root: Path) -> dict[str, str]:
    """This process's group by controller; version 2 has one for all, under ""."""
    found: dict[str, str] = {}
    for line in read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _upwards(base: Path, group: str) -> Iterator[Path]:
    """The group's folder and those above it. Inside a container its path may be one that only the host has."""
    inside = PurePosixPath(group.lstrip("/"))
    if ".." in inside.parts:
        inside = PurePosixPath()
    for part in (inside, *inside.parents):
        yield base / part


def _memory(folder: Path, names: _Names) -> list[tuple[int, int]]:
    limit = read(folder / names.limit).strip()
    if not limit.isdigit() or int(limit) >= _UNLIMITED:
        return []
    usage = read(folder / names.usage).strip()
    lines = (line.split() for line in read(folder / "memory.stat").splitlines())
    cached = sum(int(line[1]) for line in lines if len(line) == 2 and line[0] == names.cached)
    used = max(0, int(usage) - cached) if usage.isdigit() else 0
    return [(int(limit), max(0, int(limit) - used))]


def _cores(words: list[str]) -> list[float]:
    """From a quota and a period in microseconds; a quota of "max" or -1 is none."""
    return [int(words[0]) / int(words[1])] if len(words) == 2 and all(w.isdecimal() and int(w) for w in words) else []
