"""Confidence limits of quantiles from order statistics: exact for any distribution, so fit for latencies.

If x has a continuous distribution, the number of n independent values below its q-quantile is Binomial(n, q). The
k-th smallest value is therefore a confidence limit whose level is a binomial sum (David & Nagaraja, *Order Statistics*,
3rd ed., section 7.1).
"""

from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def quantile_limits(values: Values, q: float, confidence: float) -> tuple[float | None, float | None]:
    """Lower and upper limit of the q-quantile, each one-sided at `confidence`.

    Args:
        values: independent observations, [n].
        q: between 0 and 1.
        confidence: of each limit on its own.

    Returns:
        A limit is None where n observations are too few for it: an upper limit of the 99th percentile at 95% needs 299.
    """
    ordered = np.sort(values)
    below = np.cumsum([_binomial(len(ordered), k, q) for k in range(len(ordered) + 1)])  # P(count <= k)
    upper = int(np.searchsorted(below, confidence))  # P(count <= upper) >= confidence: the next value is above
    lower = int(np.searchsorted(below, 1 - confidence, side="right"))  # P(count < lower) <= 1 - confidence
    return (
        float(ordered[lower - 1]) if lower >= 1 else None,
        float(ordered[upper]) if upper < len(ordered) else None,
    )


def median_interval(values: Values, confidence: float) -> tuple[float, float, float]:
    """Low, median and high; the ends are each one-sided at `confidence`, or the extremes where n is too small."""
    low, high = quantile_limits(values, 0.5, confidence)
    return (
        float(values.min()) if low is None else low,
        float(np.median(values)),
        float(values.max()) if high is None else high,
    )


def _binomial(n: int, k: int, p: float) -> float:
    return exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1 - p))
