"""Latency of several subjects, interleaved: never one timing against another taken at another time.

Each round visits every subject once, in an order drawn anew, so that whatever slows the machine for a while slows all
of them. A visit makes one untimed run, which brings the subject's own weights back into the caches, and then timed
ones. A speedup is the median over rounds of the ratio within a round.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from headway.bundles.manifest import Latency
from headway.core.progress import SILENT, Progress
from headway.measure.order import median_interval, quantile_limits

Milliseconds = NDArray[np.float64]
RUNS_A_VISIT = 3


def interleave(
    subjects: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    least_rounds: int = 100,
    most_rounds: int = 1000,
    seed: int = 0,
    progress: Progress = SILENT,
    title: str = "measure latency",
) -> dict[str, Milliseconds]:
    """Time every subject in every round.

    Args:
        subjects: what to run, by name.
        seconds: time to spend, once `least_rounds` are made.
        least_rounds: made whatever they cost; see `rounds_for_p99`.
        most_rounds: made at most.
        seed: of the order within rounds.
        progress: told of each round.
        title: of the work.

    Returns:
        Milliseconds by name, each [rounds, RUNS_A_VISIT].
    """
    draw = np.random.default_rng(seed)
    names = list(subjects)
    for name in names:
        for _ in range(3):
            subjects[name]()
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    rounds = 0
    with _no_collection(), progress.work(title, most_rounds) as bar:
        while rounds < least_rounds or (rounds < most_rounds and time.perf_counter() < end):
            for i in draw.permutation(len(names)):
                taken[names[i]].append(_visit(subjects[names[i]]))
            rounds += 1
            bar.advance(1, f"{rounds} rounds")
        bar.advance(most_rounds - rounds)
    return {name: np.asarray(rows, dtype=np.float64) for name, rows in taken.items()}


def rounds_for_p99(confidence: float) -> int:
    """Rounds that give the 99th percentile an upper limit from one run of each, and a tenth more."""
    runs = log(1 - confidence) / log(0.99)  # all of them lie below the percentile no more often than this
    return max(100, ceil(1.1 * runs))


def _visit(run: Callable[[], object]) -> list[float]:
    run()
    taken = []
    for _ in range(RUNS_A_VISIT):
        start = time.perf_counter_ns()
        run()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def speedup(reference: Milliseconds, subject: Milliseconds, confidence: float) -> tuple[float, float, float]:
    """Low, median and high of reference / subject; each end one-sided at `confidence`.

    Args:
        reference: [rounds, RUNS_A_VISIT].
        subject: of the same rounds.
        confidence: of each end on its own.
    """
    return median_interval(np.median(reference, axis=1) / np.median(subject, axis=1), confidence)


def summarise(taken: Milliseconds, confidence: float) -> Latency:
    """Percentiles of single runs; the limits of the 99th are each one-sided at `confidence`.

    The runs of one visit share whatever slows the machine just then, so the limits, which need independent values, see
    only the first of each visit.

    Args:
        taken: [rounds, RUNS_A_VISIT].
        confidence: of each limit on its own.
    """
    p50, p90, p99 = (float(v) for v in np.percentile(taken, [50, 90, 99]))
    low, high = quantile_limits(taken[:, 0], 0.99, confidence)
    return Latency(
        p50=p50,
        p90=p90,
        p99=p99,
        p99_low=p99 if low is None else min(low, p99),
        p99_high=None if high is None else max(high, p99),
        runs=taken.size,
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector would stop now one subject, now another."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
