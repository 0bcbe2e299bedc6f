"""Is a variant as accurate as the original? Decided from pairs: both answer the same rows.

The question is put as a ratio, "keeps at least 99% of the original's accuracy", and answered with a one-sided limit.

- Scores of 0 and 1: the score test of a ratio of paired proportions (Nam & Blackwelder, *Statistics in Medicine* 21,
  2002; Tang, Tang & Chan, *Statistics in Medicine* 22, 2003), inverted to a limit. At ratio 1 it is McNemar's test.
  It stays honest where no row was lost at all: n rows without a loss still leave room for about z²/n.
- Other scores: the paired bootstrap of the ratio of means (Efron & Tibshirani 1993, chapter 13).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from headway.bundles.manifest import Accuracy
from headway.core.errors import DataError

Rows = NDArray[np.float64]
_RESAMPLES = 10_000
_CHUNK = 1_000_000  # indices held at once while resampling


@dataclass(frozen=True)
class Pairs:
    """Counts of rows by who was right.

    Attributes:
        both: original and variant.
        lost: only the original.
        gained: only the variant.
        rows: all, those where both were wrong included.
    """

    both: int
    lost: int
    gained: int
    rows: int

    def z(self, ratio: float) -> float:
        """Score statistic of "variant / original = ratio"; large where the variant keeps more than that."""
        a, b, c = self.both, self.lost, self.gained
        excess, spread = (a + c) - ratio * (a + b), sqrt(self._variance(ratio))
        return excess / spread if spread > 1e-6 else (inf if excess > 0 else -inf if excess < 0 else 0.0)

    def _variance(self, ratio: float) -> float:
        """Of variant - ratio x original, summed over rows, if `ratio` is the true one."""
        a, b, c, n = self.both, self.lost, self.gained, self.rows
        # Restricted maximum likelihood of P(only the original is right): the larger root of A q² + B q + C = 0.
        big_a, big_b, big_c = n * (1 + ratio), (a + b) * ratio**2 - (a + 2 * b + c), b * (1 - ratio) * (a + b + c) / n
        q = (-big_b + sqrt(max(big_b**2 - 4 * big_a * big_c, 0.0))) / (2 * big_a)
        return max(0.0, n * (1 + ratio) * q + (a + b + c) * (ratio - 1))

    def limits(self, confidence: float) -> tuple[float, float]:
        """Lower and upper limit of variant / original, each one-sided at `confidence`."""
        z = NormalDist().inv_cdf(confidence)
        return _solve(lambda ratio: self.z(ratio) - z), _solve(lambda ratio: self.z(ratio) + z)

    def rows_needed(self, keep: float, confidence: float, power: float = 0.9) -> int | None:
        """Rows that would prove "keeps `keep`" with probability `power`, if these rates are the true ones.

        None where no number would: the estimate itself does not keep it.
        """
        a, b, c, n = self.both, self.lost, self.gained, self.rows
        mean = ((a + c) - keep * (a + b)) / n
        if mean <= 0:
            return None
        as_seen = (a * (1 - keep) ** 2 + b * keep**2 + c) / n - mean**2
        normal = NormalDist()
        wanted = normal.inv_cdf(confidence) * sqrt(self._variance(keep) / n) + normal.inv_cdf(power) * sqrt(as_seen)
        return ceil((wanted / mean) ** 2)


def pairs(original: Rows, variant: Rows) -> Pairs:
    """Count rows by who was right; both arrays are 0 or 1, [N]."""
    o, v = original > 0.5, variant > 0.5
    return Pairs(int((o & v).sum()), int((o & ~v).sum()), int((v & ~o).sum()), len(o))


def compare(original: Rows, variant: Rows, *, metric: str, binary: bool, confidence: float) -> Accuracy:
    """The variant's accuracy, and what share of the original's it keeps.

    Args:
        original: a score a row, [N]; greater is better.
        variant: of the same rows in the same order, [N].
        metric: its name.
        binary: every score is 0 or 1.
        confidence: of each end of each interval on its own.

    Raises:
        DataError: the original's mean score is not above 0, so that a share of it means nothing.
    """
    base, value = float(original.mean()), float(variant.mean())
    if base <= 0:
        raise DataError(
            f"the original's {metric} on the test part is {base:.4g}, so no share of it can be kept",
            remedy="Check the task's targets and metric, or train the model for longer.",
        )
    counted = pairs(original, variant) if binary else None
    kept_interval = counted.limits(confidence) if counted else _bootstrap_ratio(original, variant, confidence)
    return Accuracy(
        metric=metric,
        value=value,
        interval=wilson(value, len(variant), confidence) if binary else _mean_interval(variant, confidence),
        kept=value / base,
        kept_interval=kept_interval,
        confidence=confidence,
        rows=len(variant),
        lost=counted.lost if counted else None,
        gained=counted.gained if counted else None,
    )


def wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927); each end one-sided at `confidence`."""
    z = NormalDist().inv_cdf(confidence)
    middle = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))


def _solve(f: Callable[[float], float], low: float = 1e-9, high: float = 1e3) -> float:
    """The root of a falling function, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) > 0 else (low, middle)
    return (low + high) / 2


def _bootstrap_ratio(original: Rows, variant: Rows, confidence: float) -> tuple[float, float]:
    draw = np.random.default_rng(0)  # a report must say the same when it is made again
    n = len(original)
    ratios = []
    for start in range(0, _RESAMPLES, max(1, _CHUNK // n)):
        size = min(max(1, _CHUNK // n), _RESAMPLES - start)
        rows = draw.integers(0, n, (size, n))
        ratios.append(variant[rows].mean(axis=1) / np.maximum(original[rows].mean(axis=1), 1e-12))
    low, high = np.quantile(np.concatenate(ratios), [1 - confidence, confidence])
    return float(low), float(high)


def _mean_interval(values: Rows, confidence: float) -> tuple[float, float]:
    half = NormalDist().inv_cdf(confidence) * float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else inf
    return float(values.mean()) - half, float(values.mean()) + half
