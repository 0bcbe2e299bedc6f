"""A leak is found and named, whoever leaks; what does not leak is called flat."""

import ctypes
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from headway.core.errors import UsageError
from headway.measure.growth import BLOCKS, growth
from headway.measure.leak import Leak, watch

ROUNDS, WIDE = 320, 20_000
_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]


@pytest.fixture
def native() -> Iterator[Callable[[], None]]:
    """Takes 40,000 bytes with malloc and keeps them, until the test is over."""
    taken: list[int] = []

    def take() -> None:
        block = _libc.malloc(40_000)
        _libc.memset(block, 1, 40_000)
        taken.append(block)

    yield take
    for block in taken:
        _libc.free(block)


def test_a_python_leak_is_named_by_its_line() -> None:
    kept: list[bytearray] = []

    def work() -> None:
        kept.append(bytearray(30_000))  # this line

    found = watch(work, rounds=ROUNDS, bound=WIDE)
    assert found.verdict == "grows"
    assert found.python.slope == pytest.approx(30_000, rel=0.02)
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# this line"))
    assert found.lines[0].where == f"{__file__}:{line}"
    assert found.lines[0].growth.low > 29_000
    assert found.lines[0].callers
    assert not found.native_grows
    assert json.loads(json.dumps(found.document()))["lines"][0]["where"].endswith(f":{line}")


def test_a_native_leak_is_no_line_of_python(native: Callable[[], None]) -> None:
    found = watch(native, rounds=ROUNDS, bound=WIDE)
    assert found.verdict == "grows"
    assert found.native_grows
    low, slope, high = found.native
    assert low < slope < high
    assert slope == pytest.approx(40_000, rel=0.1)
    assert all(line.growth.slope < 1000 for line in found.lines)


def test_work_that_keeps_nothing_is_flat() -> None:
    def work() -> None:
        circle: list[object] = [np.ones(5000)]
        circle.append(circle)  # garbage that only the collector finds

    found = watch(work, rounds=ROUNDS, bound=WIDE)
    assert found.verdict == "flat", found


def test_memory_that_is_taken_once_is_no_leak() -> None:
    kept: list[bytearray] = []
    number = itertools.count()

    def work() -> None:
        if next(number) in (200, ROUNDS + 200):
            kept.append(bytearray(20_000_000))

    found = watch(work, rounds=ROUNDS, bound=WIDE)
    assert found.verdict == "insufficient"


def test_what_few_rounds_cannot_tell_asks_for_more() -> None:
    noise = [(-1) ** n * 1e6 for n in range(BLOCKS)]
    at = [n * 10 for n in range(BLOCKS)]
    still, growing = growth(at, [0] * BLOCKS, warm_up=0), growth(at, [20_000 * n for n in range(BLOCKS)], warm_up=0)
    found = Leak(200, 1024, growth(at, noise, warm_up=0), still, ())
    assert found.verdict == "insufficient"
    assert found.more_rounds > 400
    assert Leak(200, 1024, still, growing, ()).verdict == "insufficient"  # Python says so, and the system does not
    assert Leak(200, 1024, growing, still, ()).verdict == "grows"
    assert Leak(200, 1024, still, still, ()).verdict == "flat"
    with pytest.raises(UsageError, match="at least"):
        watch(lambda: None, rounds=10)
