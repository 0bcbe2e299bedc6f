"""Quantiles of Student's t distribution, which the base install has no package for."""

from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

_MANY = 1000  # degrees of freedom from which the first term of the expansion is exact to 1e-5


def t_quantile(p: float, df: int) -> float:
    """The p-quantile for `df` degrees of freedom, to about 1e-5.

    The distribution's finite sums (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4) are inverted by bisection; for many
    degrees of freedom the expansion around the normal quantile is used (26.7.5).

    Args:
        p: between 0 and 1.
        df: from 1.
    """
    if p < 0.5:
        return -t_quantile(1 - p, df)
    if df > _MANY:
        z = NormalDist().inv_cdf(p)
        return z + (z**3 + z) / (4 * df)
    low, high = 0.0, pi / 2  # of the angle whose tangent is t / sqrt(df)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + _within(middle, df)) / 2 < p else (low, middle)
    return sqrt(df) * sin(low) / cos(low)


def t_cdf(t: float, df: int) -> float:
    """P(T <= t) for `df` degrees of freedom."""
    return (1 + _within(atan(t / sqrt(df)), df)) / 2


def _within(angle: float, df: int) -> float:
    """P(|T| <= t), where t / sqrt(df) is the tangent of `angle`; negative for a negative angle."""
    odd = df % 2
    count = (df - 1) // 2 if odd else df // 2  # of terms
    k = np.arange(1, count)
    growth = 2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k)
    series = float(np.cumprod(np.concatenate([[1.0], growth * cos(angle) ** 2])).sum()) if count else 0.0
    return 2 / pi * (angle + sin(angle) * cos(angle) * series) if odd else sin(angle) * series
