"""Order-statistic limits: exact levels, and honest where observations are too few."""

import numpy as np
import pytest

from headway.measure.order import median_interval, quantile_limits


def test_the_99th_percentile_needs_299_observations() -> None:
    values = np.arange(299.0)
    assert quantile_limits(values[:298], 0.99, 0.95)[1] is None
    assert quantile_limits(values, 0.99, 0.95)[1] == 298.0


@pytest.mark.parametrize("q", [0.5, 0.99])
def test_limits_hold_as_often_as_said(q: float) -> None:
    draw = np.random.default_rng(0)
    truth = -np.log(1 - q)  # of the exponential distribution
    below = above = 0
    for _ in range(1500):
        low, high = quantile_limits(draw.exponential(size=600), q, 0.95)
        below += low is not None and low <= truth
        above += high is not None and high >= truth
    assert min(below, above) / 1500 >= 0.95 - 3 * (0.05 * 0.95 / 1500) ** 0.5


def test_median_interval_falls_back_to_the_extremes() -> None:
    assert median_interval(np.array([3.0, 1.0, 2.0]), 0.95) == (1.0, 2.0, 3.0)
