"""The three ways of choosing a range: that they differ where they should, and agree where nothing is to be gained."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.compress.calibration import Method, find_ranges
from headway.core.errors import DataError
from headway.core.tensors import Array

METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")


def ranges(values: Array, method: Method, parts: int = 4, percentile: float = 99.99) -> tuple[float, float]:
    """Of one tensor whose values come in several batches."""

    def batches() -> Iterator[Mapping[str, Array]]:
        for piece in np.array_split(values.astype(np.float32), parts):
            yield {"t": piece}

    return find_ranges(dict, batches, method, percentile)["t"]


def squared_error(values: Array, low: float, high: float) -> float:
    """Of 256 levels over a range."""
    step = (high - low) / 255
    return float(np.mean((values - np.clip(np.rint(values / step) * step, low, high)) ** 2))


def test_heavy_tails_are_cut_by_percentile_and_entropy_each_in_its_way() -> None:
    values = np.random.default_rng(0).standard_t(3, 200_000)
    found = {method: ranges(values, method) for method in METHODS}
    assert found["minmax"] == pytest.approx((values.min(), values.max()))
    for method in ("percentile", "entropy"):
        low, high = found[method]
        assert values.min() < 2 * low < low < -5 < 5 < high < 2 * high < values.max()
    assert found["percentile"] != found["entropy"]


def test_percentile_keeps_the_share_it_names() -> None:
    values = np.random.default_rng(1).laplace(size=500_000)
    for share in (99.0, 99.9, 99.99):
        low, high = ranges(values, "percentile", percentile=share)
        assert np.mean((values >= low) & (values <= high)) * 100 == pytest.approx(share, abs=(100 - share) / 5)
    assert ranges(values, "percentile", percentile=100) == pytest.approx(ranges(values, "minmax"), rel=1e-3)


@pytest.mark.parametrize("kind", ["laplace", "exponential"])
def test_entropy_quantizes_long_tails_better_than_the_extremes_do(kind: str) -> None:
    draw = np.random.default_rng(2)
    values = draw.laplace(size=400_000) if kind == "laplace" else np.maximum(draw.normal(size=400_000), 0)
    entropy, extremes = ranges(values, "entropy"), ranges(values, "minmax")
    assert squared_error(values, *entropy) < squared_error(values, *extremes)


def test_zeros_after_a_relu_do_not_move_the_threshold() -> None:
    values = np.random.default_rng(3).exponential(size=100_000)
    padded = np.concatenate([values, np.zeros(400_000)])
    assert ranges(padded, "entropy")[1] == pytest.approx(ranges(values, "entropy")[1], rel=0.02)


def test_uniform_values_lose_nothing_to_any_method() -> None:
    values = np.random.default_rng(4).uniform(-1, 1, 100_000)
    for method in METHODS:
        assert ranges(values, method) == pytest.approx((-1, 1), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 3000),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    shift=st.floats(-3, 3),
    parts=st.integers(1, 5),
)
def test_a_range_holds_zero_and_stays_within_the_extremes_however_the_data_is_cut(
    seed: int, count: int, scale: float, shift: float, parts: int
) -> None:
    values = ((np.random.default_rng(seed).normal(size=count) + shift) * scale).astype(np.float32)
    for method in METHODS:
        low, high = ranges(values, method, parts)
        assert min(0.0, float(values.min())) <= low <= 0 <= high <= max(0.0, float(values.max()))
        assert (low, high) == ranges(values, method, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_an_empty_range(method: Method) -> None:
    assert ranges(np.zeros(100), method) == (0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_the_datas_mistake(bad: float) -> None:
    with pytest.raises(DataError, match="tensor 't': calibration data brings about NaN or infinity"):
        ranges(np.array([1.0, bad]), "minmax", 1)


def test_no_data_is_an_error() -> None:
    with pytest.raises(DataError, match="no calibration data"):
        find_ranges(dict, list, "entropy")
