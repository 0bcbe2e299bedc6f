"""Confidence limits of quantiles from order statistics: exact for any distribution, so fit for latencies.

If x has a continuous distribution, the number of n independent values below its q-quantile is Binomial(n, q). The
k-th smallest value is therefore a confidence limit whose level is a binomial sum (David & Nagaraja, *Order Statistics*,
3rd ed., section 7.1).
"""

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
    lower, upper = ranks(len(ordered), q, confidence)
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


def ranks(count: int, q: float, confidence: float) -> tuple[int, int]:
    """How many of the sorted values lie before each limit: the lower one is the last of so many, the upper the next.

    0 for the lower and `count` for the upper: there are too few values for that limit.
    """
    below = np.cumsum(_binomial(count, q))  # P(number below the quantile <= k)
    upper = int(np.searchsorted(below, confidence))  # P(number <= upper) >= confidence: the next value is above
    lower = int(np.searchsorted(below, 1 - confidence, side="right"))  # P(number < lower) <= 1 - confidence
    return lower, min(upper, count)


def _binomial(n: int, p: float) -> Values:
    """The probability of each number from 0 to n."""
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])  # logarithms
    chances: Values = np.exp(factorials[-1] - factorials - factorials[::-1] + k * np.log(p) + (n - k) * np.log1p(-p))
    return chances
