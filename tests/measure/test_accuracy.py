"""The gate's statistics: against their definitions, and against simulation."""

from collections.abc import Callable
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import DataError
from headway.measure.accuracy import Pairs, Rows, compare, pairs, wilson

counts = st.integers(0, 400)


@st.composite
def tables(draw: st.DrawFn) -> Pairs:
    both, lost, gained, wrong = draw(st.integers(20, 2000)), draw(counts), draw(counts), draw(counts)
    return Pairs(both, lost, gained, both + lost + gained + wrong)


def test_at_ratio_one_it_is_mcnemar() -> None:
    found = Pairs(both=800, lost=30, gained=12, rows=1000)
    assert found.z(1.0) == pytest.approx((12 - 30) / (12 + 30) ** 0.5)


def test_restricted_likelihood_is_the_maximum() -> None:
    """The closed form of the variance agrees with a search over the likelihood it maximises."""
    found, ratio = Pairs(both=800, lost=30, gained=12, rows=1000), 0.97
    a, b, c, n = found.both, found.lost, found.gained, found.rows
    d = n - a - b - c
    best, at = -np.inf, (0.0, 0.0)
    for p11 in np.linspace(0.70, 0.90, 801):
        for p10 in np.linspace(0.025, 0.06, 701):
            p01 = ratio * p10 + (ratio - 1) * p11
            p00 = 1 - p11 - p10 - p01
            if p01 > 0 and p00 > 0:
                value = a * log(p11) + b * log(p10) + c * log(p01) + d * log(p00)
                if value > best:
                    best, at = value, (p11, p10)
    p11, p10 = at
    variance = n * ratio * (p11 * (ratio - 1) + (1 + ratio) * p10)
    assert found.z(ratio) == pytest.approx(((a + c) - ratio * (a + b)) / variance**0.5, rel=0.01)


@given(tables())
def test_limits_bracket_the_estimate_and_widen_with_confidence(found: Pairs) -> None:
    ratio = (found.both + found.gained) / (found.both + found.lost)
    low, high = found.limits(0.95)
    lower, higher = found.limits(0.99)
    assert lower <= low <= ratio + 1e-6
    assert ratio - 1e-6 <= high <= higher


def test_no_row_lost_is_not_certainty() -> None:
    low, _ = Pairs(both=300, lost=0, gained=0, rows=310).limits(0.95)
    assert low == pytest.approx(300 / (300 + 1.645**2), abs=1e-4)


@pytest.mark.parametrize(("keep", "discordant", "n"), [(0.99, 0.03, 900), (0.95, 0.10, 400), (0.99, 0.02, 5000)])
def test_a_variant_at_the_bound_passes_no_more_often_than_said(keep: float, discordant: float, n: int) -> None:
    """Type I error, simulated: the true ratio is exactly `keep`, so every pass is a false one."""
    p_original = 0.9
    lost = (discordant + (1 - keep) * p_original) / 2
    p = [p_original - lost, lost, discordant - lost]
    draw = np.random.default_rng(1).multinomial(n, [*p, 1 - sum(p)], 4000)
    passes = np.mean([Pairs(int(a), int(b), int(c), n).limits(0.95)[0] >= keep for a, b, c, _ in draw])
    assert passes <= 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5
    assert passes > 0.02, "so careful a test would need far more rows than it says"


def test_rows_needed_is_what_simulation_needs() -> None:
    seen = Pairs(both=880, lost=6, gained=4, rows=1000)
    n = seen.rows_needed(0.98, 0.95, power=0.9)
    assert n is not None
    p = np.array([880, 6, 4, 110]) / 1000
    draw = np.random.default_rng(2).multinomial(n, p, 2000)
    power = np.mean([Pairs(int(a), int(b), int(c), n).limits(0.95)[0] >= 0.98 for a, b, c, _ in draw])
    assert 0.85 < power < 0.97
    assert Pairs(both=800, lost=90, gained=4, rows=1000).rows_needed(0.98, 0.95) is None


@pytest.mark.parametrize("keep", [0.8, 0.9, 0.98])
def test_rows_needed_where_everybody_is_always_right(keep: float) -> None:
    """The spread is 0, and rounding must not make it less."""
    needed = Pairs(both=100, lost=0, gained=0, rows=100).rows_needed(keep, 0.95)
    assert needed is not None
    assert needed > 0


@given(st.integers(1, 500), st.integers(0, 10**6))
def test_pairs_count_every_row(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    original, variant = draw.integers(0, 2, n).astype(float), draw.integers(0, 2, n).astype(float)
    found = pairs(original, variant)
    assert found.both + found.lost == original.sum()
    assert found.both + found.gained == variant.sum()
    assert found.rows == n


def _dense(draw: np.random.Generator, original: Rows, n: int) -> Rows:
    """Every row differs, with the heavy tails of t with 3 degrees of freedom."""
    return original + 0.1 * draw.standard_t(3, n)


def _skewed(draw: np.random.Generator, original: Rows, n: int) -> Rows:
    """Small gains in most rows, large losses in few."""
    return original + 0.1 * (np.exp(0.5) - draw.lognormal(0, 1, n))


def _rare(draw: np.random.Generator, original: Rows, n: int) -> Rows:
    """Most rows do not differ at all; a few are lost, wholly or by half."""
    lost = (draw.random(n) < 0.1) * draw.choice([0.5, 1.0], n)
    return original * (1 - lost) / 0.925


@pytest.mark.parametrize("n", [10, 20, 50, 300])
@pytest.mark.parametrize("differ", [_dense, _skewed, _rare])
def test_other_scores_at_the_bound_pass_no_more_often_than_said(
    differ: Callable[[np.random.Generator, Rows, int], Rows], n: int
) -> None:
    """Type I error, simulated; the true ratio is exactly `keep`."""
    draw = np.random.default_rng(n)
    passes = 0
    for _ in range(2000):
        original = draw.uniform(0.5, 1.5, n)
        keep = 0.925
        variant = keep * differ(draw, original, n)
        found = compare(original, variant, metric="score", confidence=0.95)
        passes += found.kept_interval[0] >= keep
    assert passes / 2000 <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def test_fieller_proves_what_is_true() -> None:
    """300 rows that hardly differ are enough for 99%."""
    draw = np.random.default_rng(3)
    original = draw.uniform(0.5, 1.5, 300)
    found = compare(original, original + draw.normal(0, 0.02, 300), metric="score", confidence=0.95)
    low, high = found.kept_interval
    assert 0.99 <= low < 1 < high <= 1.012


@pytest.mark.parametrize("n", [3, 10, 100, 1000])
def test_no_difference_in_other_scores_is_not_certainty(n: int) -> None:
    scores = np.linspace(0.5, 1, n)
    low, high = compare(scores, scores, metric="score", confidence=0.95).kept_interval
    assert low <= 0.05 ** (1 / n) + 0.5 / n
    assert high > 1


def test_few_rows_of_an_original_near_zero_exclude_nothing() -> None:
    low, high = compare(np.array([0.0, 0.5]), np.array([0.0, 0.5]), metric="s", confidence=0.95).kept_interval
    assert (low, high) == (0.0, 1000.0)


def test_scores_of_0_and_1_are_counted_whatever_is_said_of_them() -> None:
    found = compare(np.array([1.0, 1, 0]), np.array([1.0, 1, 0]), metric="accuracy", confidence=0.95)
    assert (found.lost, found.gained) == (0, 0)
    assert found.kept_interval[0] < 0.5


def test_one_row_of_other_scores_is_refused() -> None:
    with pytest.raises(DataError, match="one row"):
        compare(np.array([0.5]), np.array([0.5]), metric="score", confidence=0.95)


def test_the_remedy_fits_what_is_wrong() -> None:
    with pytest.raises(DataError) as caught:
        compare(np.array([-0.5, -0.1]), np.array([-0.5, -0.1]), metric="score", confidence=0.95)
    assert "1 / (1 + loss)" in str(caught.value.remedy)


def test_wilson_is_within_zero_and_one() -> None:
    assert wilson(1.0, 50, 0.95)[1] == 1.0
    low, high = wilson(0.5, 100, 0.975)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))


def test_an_original_that_is_never_right_is_refused() -> None:
    with pytest.raises(DataError, match="no share of it"):
        compare(np.zeros(10), np.ones(10), metric="accuracy", confidence=0.95)
