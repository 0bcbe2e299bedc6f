"""The limits of control groups, read from trees as the kernel has them."""

from pathlib import Path

import pytest

from headway.core import machine
from headway.core.cgroup import Limits, _cores, limits

GB = 1_000_000_000


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_version_2(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 2 * GB,
            "sys/fs/cgroup/memory.current": GB,
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 400000000\nactive_file 5",
            "sys/fs/cgroup/cpu.max": "150000 100000",
        },
    )
    assert limits(root) == Limits(2 * GB, 1_400_000_000, 1.5)
    assert machine.usable_cores(root) == 1


def test_version_1(tmp_path: Path) -> None:
    memory = "sys/fs/cgroup/memory/"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/",
            f"{memory}memory.limit_in_bytes": 9223372036854771712,
            f"{memory}docker/abc/memory.limit_in_bytes": GB,
            f"{memory}docker/abc/memory.usage_in_bytes": 600_000_000,
            f"{memory}docker/abc/memory.stat": "inactive_file 1\ntotal_inactive_file 100000000",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": 50000,
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
        },
    )
    assert limits(root) == Limits(GB, 500_000_000, 0.5)
    assert machine.usable_cores(root) == 1


def test_a_group_is_bound_by_those_above_it(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b",
            f"{group}a/b/memory.max": "max",
            f"{group}a/b/cpu.max": "max 100000",
            f"{group}a/memory.max": 3 * GB,
            f"{group}a/memory.current": 2 * GB,
            f"{group}memory.max": 8 * GB,
            f"{group}memory.current": 7_500_000_000,
        },
    )
    assert limits(root) == Limits(3 * GB, 500_000_000, None)  # the outer group is nearer to its limit


def test_nothing_there_and_a_path_that_leaves_the_tree(tmp_path: Path) -> None:
    assert limits(tmp_path) == Limits()
    tree(tmp_path, {"proc/self/cgroup": "0::/../../x", "sys/fs/cgroup/memory.max": GB, "x/memory.max": 1})
    assert limits(tmp_path).memory == GB


def test_the_machine_has_what_the_group_allows(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": "MemTotal:  4000000 kB\nMemAvailable:  3000000 kB"})
    assert machine.memory(root) == (4_096_000_000, 3_072_000_000)
    tree(root, {"sys/fs/cgroup/memory.max": GB, "sys/fs/cgroup/memory.current": GB // 4})
    assert machine.memory(root) == (GB, 750_000_000)
    assert machine.at(root).memory_mb == 1000


@pytest.mark.parametrize(
    ("words", "cores"),
    [(["50000", "100000"], [0.5]), (["max", "100000"], []), (["-1", "100000"], []), (["0", "1"], []), (["1", "0"], []),
     (["x", "y"], []), (["²", "³"], []), (["1"], []), ([], []), (["1", "2", "3"], [])],
)  # fmt: skip
def test_a_quota_is_a_positive_number_or_none(words: list[str], cores: list[float]) -> None:
    assert _cores(words) == cores
