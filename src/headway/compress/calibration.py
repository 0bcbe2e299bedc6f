"""Ranges of activations, from the values that calibration data brings about.

Three methods. `minmax` takes the extremes. `percentile` cuts the rarest values. `entropy` takes the threshold at which
the quantized distribution tells most about the original one (least Kullback-Leibler divergence: S. Migacz, "8-bit
Inference with TensorRT", GTC 2017). ONNX Runtime's own calibrators are not used: `docs/decisions/0012-calibration.md`
says why.

Memory is bounded: values are folded into extremes and histograms batch by batch, in two passes over the data.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError
from headway.core.tensors import Array

Method = Literal["minmax", "percentile", "entropy"]
Range = tuple[float, float]
Counts = NDArray[np.int64]

BINS = 8192  # on each side of zero
_COARSEST = 512  # two bins for each of 256 levels: with fewer, merging bins into levels would lose nothing
_FILLED = 64  # values a bin on average: below that the divergence measures the sample's noise
_CANDIDATES = 200
_TINY = 1e-30  # what is smaller than this cannot be told from zero, and bins of such a width overflow
_STEPS = 255  # between 256 levels


@dataclass
class Histogram:
    """Counts over [-bound, bound] in 2 x BINS equal bins, so that zero is an edge.

    Attributes:
        low: least value seen, or 0 if that is less: zero must have an exact code.
        high: greatest value seen, or 0 if that is more.
        zeros: how many values are exactly 0, as after a ReLU; these quantize without error at any range.
    """

    low: float
    high: float
    zeros: int = 0
    counts: Counts = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))

    @property
    def bound(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)

    def add(self, values: Array) -> None:
        """Count values within [low, high]."""
        if self.bound < _TINY:
            return
        index = (
            values.astype(np.float32, copy=False).ravel() * np.float32(BINS / self.bound) + np.float32(BINS)
        ).astype(np.int32)
        np.clip(index, 0, 2 * BINS - 1, out=index)
        self.counts += np.bincount(index, minlength=2 * BINS)
        self.zeros += values.size - int(np.count_nonzero(values))

    def percentile(self, share: float) -> Range:
        """The range that holds `share` percent of the values; what is cut is cut by halves at either end."""
        if not self.counts.any():
            return self.low, self.high
        edges = np.linspace(-self.bound, self.bound, 2 * BINS + 1)
        below = np.concatenate(([0], np.cumsum(self.counts))) / self.counts.sum()
        tail = (100 - share) / 200
        first = int(np.searchsorted(below, tail, side="right")) - 1
        last = int(np.searchsorted(below, 1 - tail, side="left"))
        return self._within(float(edges[first]), float(edges[last]))

    def entropy(self) -> Range:
        """The range of least divergence between the values' distribution and its quantized form."""
        magnitudes = (self.counts[BINS:] + self.counts[:BINS][::-1]).astype(np.float64)
        magnitudes[0] -= self.zeros
        total = magnitudes.sum()
        if total <= 0:
            return self._within(self.low, self.high)
        bins = BINS
        while bins > _COARSEST and total / bins < _FILLED:
            bins //= 2
        magnitudes = magnitudes.reshape(bins, -1).sum(axis=1)
        width = self.bound / bins
        best, threshold = np.inf, self.bound
        for kept in np.unique(np.geomspace(bins / 64, bins, _CANDIDATES).astype(int))[::-1]:
            clipped = kept * width
            step = (min(clipped, self.high) + min(clipped, -self.low)) / _STEPS
            levels = max(1, round(clipped / step))
            if kept < levels:
                break
            divergence = _divergence(magnitudes, int(kept), levels)
            if divergence < best:
                best, threshold = divergence, clipped
        return self._within(-threshold, threshold)

    def _within(self, low: float, high: float) -> Range:
        return float(min(0.0, max(low, self.low))), float(max(0.0, min(high, self.high)))


def _divergence(magnitudes: NDArray[np.float64], kept: int, levels: int) -> float:
    """Kullback-Leibler divergence of the first `kept` bins from themselves merged into `levels`.

    What lies beyond is clipped, so it counts toward the last bin of the original, but not of the merged distribution.
    """
    inside = magnitudes[:kept]
    original = inside.copy()
    original[-1] += magnitudes[kept:].sum()
    level = np.arange(kept) * levels // kept
    occupied = inside > 0
    sums = np.bincount(level, weights=inside)
    bins = np.bincount(level, weights=occupied)
    merged = np.where(occupied, sums[level] / np.maximum(bins[level], 1), 0.0)
    seen = original > 0
    # Half a value is added to each bin, or one empty last bin would make the divergence infinite.
    p, q = original[seen] / original.sum(), merged[seen] + 0.5
    return float(np.sum(p * np.log(p / (q / q.sum()))))


def find_ranges(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    batches: Callable[[], Iterable[Mapping[str, Array]]],
    method: Method,
    percentile: float = 99.99,
) -> dict[str, Range]:
    """The range of every tensor that `run` returns.

    Args:
        run: inputs -> float tensors by name.
        batches: the calibration data, from its start at each call: it is read once for `minmax`, else twice.
        method: how the range is chosen.
        percentile: share of the values to keep, in percent, for `percentile`.

    Returns:
        (low, high) by name, with low <= 0 <= high.

    Raises:
        DataError: there is no data, or it brings about NaN or infinity.
    """
    extremes: dict[str, Histogram] = {}
    for inputs in batches():
        for name, values in run(inputs).items():
            _widen(extremes, name, values)
    if not extremes:
        raise DataError("no calibration data", remedy="Give the task's calibration part some rows.")
    if method == "minmax":
        return {name: (seen.low, seen.high) for name, seen in extremes.items()}
    for inputs in batches():
        for name, values in run(inputs).items():
            extremes[name].add(values)
    if method == "percentile":
        return {name: seen.percentile(percentile) for name, seen in extremes.items()}
    return {name: seen.entropy() for name, seen in extremes.items()}


def _widen(extremes: dict[str, Histogram], name: str, values: Array) -> None:
    if values.size == 0:
        return
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DataError(
            "calibration data brings about NaN or infinity", where=f"tensor {name!r}", remedy="Check data and weights."
        )
    seen = extremes.setdefault(name, Histogram(0.0, 0.0))
    seen.low, seen.high = min(seen.low, low), max(seen.high, high)
