"""Which batch to run: batches from small to large within the memory allowed, and the point to choose among them.

First every size is tried for a moment, to see what memory it takes and when throughput stops growing. Then the sizes
take turns (`measure/latency.py`), and the figures that are told come from those turns alone.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from headway.bundles.manifest import Latency
from headway.measure.latency import Milliseconds, summarise
from headway.measure.order import median_interval

SHARE = 0.9  # of the memory allowed
_PATIENCE = 3  # sizes without growth before the climb ends
_GROWS = 1.03
_KNEE = 0.95  # of the best throughput

Stopped = Literal["memory", "plateau", "latency", "limit", "fixed", "refused"]
Candidate = tuple[int, int]  # batch, threads


class Trial(NamedTuple):
    """One size, tried for a moment.

    Attributes:
        loaded: bytes that the loaded model takes before it runs.
        peak: bytes at the peak, inputs and outputs included.
        ms: of a run.
    """

    batch: int
    threads: int
    loaded: float
    peak: float
    ms: float

    @property
    def rows_s(self) -> float:
        """Throughput."""
        return 1000 * self.batch / self.ms


class Climb(NamedTuple):
    """The sizes that were tried, and why no more were.

    Attributes:
        expected: bytes that the next size would take; None where memory did not end it.
        reason: what the model said of the size it refused.
    """

    trials: tuple[Trial, ...]
    stopped: Stopped
    expected: float | None = None
    reason: str = ""


class Point(BaseModel):
    """A batch at a number of threads. Limits are one-sided each.

    Attributes:
        rows_s: throughput, from the median run.
        latency: of a run, milliseconds.
        memory_mb: 10^6 bytes at the peak of a session that runs this batch alone.
    """

    model_config = ConfigDict(frozen=True)

    batch: int
    threads: int
    rows_s: float
    rows_s_low: float
    rows_s_high: float
    latency: Latency
    memory_mb: float


def climb(
    attempt: Callable[[int], Sequence[Trial]],
    *,
    room: Callable[[], float],
    most: int,
    first: int = 1,
    within_ms: float = inf,
) -> Climb:
    """Try batches, each twice the one before, until one would not fit or more would not help.

    Args:
        attempt: tries a size with each number of threads. What it raises of the first size is raised; of a later one
            it ends the climb.
        room: bytes allowed, asked before every size, for others take memory as well.
        most: the largest batch; a model whose batch is fixed gets `first` alone.
        first: the smallest batch.
        within_ms: a latency; once no run keeps it, larger batches will not either.
    """
    trials = list(attempt(first))
    batch = first
    while True:
        if batch * 2 > most:
            return Climb(tuple(trials), "limit")
        if min(it.ms for it in trials if it.batch == batch) > within_ms:
            return Climb(tuple(trials), "latency")
        if _plateau(trials):
            return Climb(tuple(trials), "plateau")
        batch *= 2
        wanted = expected_peak(trials, batch)
        if wanted > SHARE * room():
            return Climb(tuple(trials), "memory", wanted)
        try:
            trials += attempt(batch)
        except Exception as error:  # noqa: BLE001  (an engine raises what it likes, and smaller sizes did run)
            return Climb(tuple(trials), "refused", reason=" ".join(str(error).split())[:300])


def expected_peak(trials: Sequence[Trial], batch: int) -> float:
    """Bytes that a larger batch should take: on from the last peak, at the steeper of two slopes.

    The one is that of a line by least squares through all peaks, the other that from the last size but one. After a
    single size, all that the run took beyond the loaded model counts as growing with the batch.
    """
    peaks = {it.batch: it for it in sorted(trials, key=lambda it: (it.batch, it.peak))}  # the largest of each size
    *_, last = peaks.values()
    if len(peaks) == 1:
        return last.loaded + (last.peak - last.loaded) * batch / last.batch
    at, taken = np.array(list(peaks), float), np.array([it.peak for it in peaks.values()])
    centred = at - at.mean()
    slope = max(centred @ taken / (centred @ centred), (taken[-1] - taken[-2]) / (at[-1] - at[-2]), 0.0)
    return float(taken[-1] + slope * (batch - at[-1]))


def groups(peaks: Mapping[Candidate, float], room: float) -> list[list[Candidate]]:
    """Candidates that can be loaded together and so take turns: as many as fit, and each in one group.

    Args:
        peaks: bytes.
        room: bytes allowed. A candidate that takes more is alone.
    """
    made: list[list[Candidate]] = []
    taken = 0.0
    for candidate, peak in sorted(peaks.items()):
        if not made or taken + peak > SHARE * room:
            made.append([])
            taken = 0.0
        made[-1].append(candidate)
        taken += peak
    return made


def point(trial: Trial, taken: Milliseconds, confidence: float) -> Point:
    """The figures of one candidate.

    Args:
        trial: of its memory.
        taken: [rounds, runs a visit].
        confidence: of each limit on its own.
    """
    low, middle, high = median_interval(np.median(taken, axis=1), confidence)
    rows_ms = 1000.0 * trial.batch
    return Point(
        batch=trial.batch,
        threads=trial.threads,
        rows_s=rows_ms / middle,
        rows_s_low=rows_ms / high,
        rows_s_high=rows_ms / low,
        latency=summarise(taken, confidence),
        memory_mb=trial.peak / 1e6,
    )


def best(points: Sequence[Point], p99_ms: float) -> Point | None:
    """The greatest throughput whose 99th percentile, by its upper limit, is within `p99_ms`."""
    fit = [it for it in points if it.latency.p99_high is not None and it.latency.p99_high <= p99_ms]
    return max(fit, key=lambda it: it.rows_s, default=None)


def undecided(points: Sequence[Point], p99_ms: float) -> bool:
    """Whether a point may keep `p99_ms`, but was run too seldom for its 99th percentile to have an upper limit."""
    return any(it.latency.p99_high is None and it.latency.p50 <= p99_ms for it in points)


def knee(points: Sequence[Point]) -> Point:
    """The smallest batch within 5% of the best throughput; of two, the one with the shorter runs.

    Beyond it a larger batch adds latency and hardly any throughput: the model has reached what the machine computes.
    """
    least = _KNEE * max(it.rows_s for it in points)
    return min((it for it in points if it.rows_s >= least), key=lambda it: (it.batch, it.latency.p50))


def _plateau(trials: Sequence[Trial]) -> bool:
    sizes: dict[int, float] = {}
    for it in trials:
        sizes[it.batch] = max(it.rows_s, sizes.get(it.batch, 0.0))
    found = list(sizes.values())
    before, since = found[:-_PATIENCE], found[-_PATIENCE:]
    return bool(before) and max(since) < _GROWS * max(before)
