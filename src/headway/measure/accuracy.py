"""Is a variant as accurate as the original? Decided from pairs: both answer the same rows.

The question is put as a ratio, "keeps at least 99% of the original's accuracy", and answered with a one-sided limit.

- Scores of 0 and 1: the score test of a ratio of paired proportions (Nam & Blackwelder, *Statistics in Medicine* 21,
  2002; Tang, Tang & Chan, *Statistics in Medicine* 22, 2003), inverted to a limit. At ratio 1 it is McNemar's test.
  It stays honest where no row was lost at all: n rows without a loss still leave room for about z²/n.
- Other scores: Fieller's limits of a ratio of means (*Journal of the Royal Statistical Society B* 16, 1954), from the
  differences variant - r x original of each row, with Student's t. So that the rows' own spread is not believed where
  it shows too little, the lower limit is taken with one row more, of the original's mean score, which the variant loses
  wholly; the upper one with a row that it gains. Without any difference, n rows then leave room for about 2.6/n at 95%.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from headway.bundles.manifest import Accuracy
from headway.core.errors import DataError
from headway.measure.student import t_quantile

Rows = NDArray[np.float64]
_MOST = 1e3  # ratios are not looked for beyond


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
        as_seen = max(0.0, (a * (1 - keep) ** 2 + b * keep**2 + c) / n - mean**2)
        normal = NormalDist()
        wanted = normal.inv_cdf(confidence) * sqrt(self._variance(keep) / n) + normal.inv_cdf(power) * sqrt(
            max(as_seen, 0.0)
        )
        return ceil((wanted / mean) ** 2)


def pairs(original: Rows, variant: Rows) -> Pairs:
    """Count rows by who was right; both arrays are 0 or 1, [N]."""
    o, v = original > 0.5, variant > 0.5
    return Pairs(int((o & v).sum()), int((o & ~v).sum()), int((v & ~o).sum()), len(o))


def _binary(scores: Rows) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())


def compare(original: Rows, variant: Rows, *, metric: str, confidence: float, part: str = "the test part") -> Accuracy:
    """The variant's accuracy, and what share of the original's it keeps.

    Args:
        original: a score a row, [N]; not below 0, and greater is better.
        variant: of the same rows in the same order, [N].
        metric: its name.
        confidence: of each end of each interval on its own.
        part: where the rows come from, for messages.

    Raises:
        DataError: the original's mean score is not above 0, so that a share of it means nothing; or there is only one
            row of scores other than 0 and 1, which says nothing of their spread.
    """
    base, value = float(original.mean()), float(variant.mean())
    if base <= 0:
        raise DataError(
            f"the original's {metric} on {part} is {base:.4g}, so no share of it can be kept",
            remedy="Check the task's targets and metric, or train the model for longer."
            if base == 0
            else "Greater must be better and nothing below 0: turn a loss into 1 / (1 + loss) or exp(-loss).",
        )
    counted = pairs(original, variant) if _binary(original) and _binary(variant) else None
    if counted is None and len(original) < 2:
        raise DataError(f"{part} has one row, which says nothing of the spread", remedy="Give it more rows.")
    kept_interval = counted.limits(confidence) if counted else _fieller(original, variant, confidence)
    return Accuracy(
        metric=metric,
        value=value,
        interval=wilson(value, len(variant), confidence) if counted else _mean_interval(variant, confidence),
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


def _solve(f: Callable[[float], float], low: float = 1e-9, high: float = _MOST) -> float:
    """The root of a falling function, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) > 0 else (low, middle)
    return (low + high) / 2


def _fieller(original: Rows, variant: Rows, confidence: float) -> tuple[float, float]:
    """Limits of mean(variant) / mean(original), each one-sided; see the module's text."""
    t = t_quantile(confidence, len(original) - 1)
    base = float(original.mean())
    low, _ = _roots(np.append(original, base), np.append(variant, 0.0), t)
    _, high = _roots(np.append(original, base), np.append(variant, 2 * base), t)
    return low, high


def _roots(original: Rows, variant: Rows, t: float) -> tuple[float, float]:
    """The ratios r for which the mean of variant - r x original is t standard errors away from 0."""
    o, v, n = float(original.mean()), float(variant.mean()), len(original)
    spread = np.cov(original, variant) * (t * t / n)
    a, b, c = o * o - spread[0, 0], o * v - spread[0, 1], v * v - spread[1, 1]
    if a <= 0:  # the original's own mean may be 0: no ratio can be excluded
        return 0.0, _MOST
    root = sqrt(max(b * b - a * c, 0.0))
    return max(0.0, float(b - root) / a), min(_MOST, float(b + root) / a)


def _mean_interval(values: Rows, confidence: float) -> tuple[float, float]:
    half = t_quantile(confidence, len(values) - 1) * float(values.std(ddof=1)) / sqrt(len(values))
    return max(0.0, float(values.mean()) - half), float(values.mean()) + half
