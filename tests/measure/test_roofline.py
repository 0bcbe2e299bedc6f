"""The machine's roofline: measured once, kept, and what it allows."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.measure.count import Work
from headway.measure.roofline import CACHE, bound, roofline

SIZES = st.integers(0, 10**10)


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path))
    found = roofline(1)
    assert found.peak["fp32"] > 1e8
    assert found.bandwidth > 1e8
    assert found.cached >= found.bandwidth
    (kept,) = tmp_path.glob("cache/rooflines/*.json")
    kept.write_text(found.model_copy(update={"bandwidth": 123.0}).model_dump_json())
    assert roofline(1).bandwidth == 123.0
    kept.write_text("{")
    assert roofline(1).bandwidth != 123.0


@given(SIZES, SIZES, SIZES, SIZES)
def test_neither_roof_is_broken(operations: int, weights: int, read: int, written: int) -> None:
    work = Work(
        operations=operations, precision="int8", weight_bytes=weights, read_bytes=read, written_bytes=written
    )  # fmt: skip
    found = bound(work, {"fp32": 1e9, "int8": 4e9}, 1e9, 1e10)
    assert found.seconds >= operations / 4e9
    assert found.seconds >= weights / 1e9 + (read + written) / 1e10
    assert found.seconds <= max(operations / 4e9, work.bytes / 1e9) * (1 + 1e-9)


def test_what_fits_a_cache_is_quicker() -> None:
    small = Work(operations=0, precision="fp32", weight_bytes=0, read_bytes=CACHE, written_bytes=0)
    large = Work(operations=0, precision="fp32", weight_bytes=0, read_bytes=CACHE, written_bytes=1)
    peak = {"fp32": 1e9}
    assert bound(small, peak, 1e9, 1e10).seconds == pytest.approx(CACHE / 1e10)
    assert bound(large, peak, 1e9, 1e10).seconds == pytest.approx((CACHE + 1) / 1e9)
    assert bound(small, peak, 1e9, 1e10).by == "memory"
