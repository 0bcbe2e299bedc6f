"""Student's t against scipy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from headway.measure.student import t_cdf, t_quantile


@given(st.floats(0.0001, 0.9999), st.one_of(st.integers(1, 40), st.integers(1, 100_000)))
def test_quantiles(p: float, df: int) -> None:
    assert t_quantile(p, df) == pytest.approx(t.ppf(p, df), rel=1e-4, abs=1e-6)


@given(st.floats(-50, 50), st.integers(1, 500))
def test_probabilities(value: float, df: int) -> None:
    assert t_cdf(value, df) == pytest.approx(t.cdf(value, df), abs=1e-9)
