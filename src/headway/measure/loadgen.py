"""Load in the shapes of MLPerf Inference: single stream, server and offline.

The shapes are those of the rules (https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc,
"Scenarios" and "Load Generator"): queries one after the other, whose 90th percentile counts; queries at random times
(Poisson), and the greatest rate whose 99th percentile keeps a bound; all at once, and the throughput. Runs here are
shorter than the rules ask, so that the figures are no MLPerf results. Latency counts from the moment that a query was
due, so that a generator that comes late cannot hide it.

Limits of percentiles take queries as independent, as LoadGen's early stopping does. Queries that wait in one queue are
not quite: a rate is therefore proved on other arrivals, five times, as the rules have it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from headway.measure.latency import rounds_for_p99
from headway.measure.order import quantile_limits, ranks

CONFIDENCE = 0.95
PROOF = 0.99  # of the limit that a rate must keep: queries in one queue are late together, which makes it too narrow
CONFIRM = 5  # runs with other arrivals that prove a rate
BUDGET = 24  # whole runs that a search may take; one that fails is soon over, and counts for its part
_BISECT = 14  # of them
_MOST_PROBES = 100
_HOPELESS = 0.03  # of a run's queries late: the run ends
_TOLERANCE = 0.02  # of the rate: how closely it is sought
_LOWER = 0.05  # of a rate is taken off before it is proved, and then twice that, and so on
_STEADY = 10  # times the bound that a run must last: a shorter one ends before a queue that grows is seen
_SPIN_S = 0.0002
_STRETCH_S = 0.2

Array = NDArray[np.float64]
Name = TypeVar("Name")


class Clock(Protocol):
    """What time it is. Tests bring one that is simulated."""

    def now(self) -> float:
        """Seconds from any beginning."""

    def until(self, moment: float) -> None:
        """Return at `moment`."""


class Wall:
    """The real one."""

    def now(self) -> float:
        """Seconds of the performance counter."""
        return time.perf_counter()

    def until(self, moment: float) -> None:
        """Sleep, and spin for the last 0.2 ms: a sleep ends late by less."""
        if (left := moment - time.perf_counter() - _SPIN_S) > 0:
            time.sleep(left)
        while time.perf_counter() < moment:
            pass


class Percentile(NamedTuple):
    """Milliseconds; `high` is the upper limit at 95%. Both are None where there are too few queries to have one."""

    value: float | None
    high: float | None


class Probe(NamedTuple):
    """One run at one rate.

    Attributes:
        rate: queries a second.
        queries: that were asked for.
        latencies: milliseconds of those answered; fewer than `queries` where far too many were late.
        late: how many passed the bound.
        kept: whether at most a hundredth was late; None: the run is too short to tell.
    """

    rate: float
    queries: int
    latencies: Array
    late: int
    kept: bool | None

    @property
    def part(self) -> float:
        """How much of a whole run it took."""
        return len(self.latencies) / max(1, self.queries)


class Search(NamedTuple):
    """The greatest rate that keeps the bound.

    Attributes:
        rate: queries a second; None without one.
        outcome: `none` where no rate keeps it, `short` where the runs are too short to tell.
        latencies: milliseconds of the runs that proved the rate.
        probes: every run.
    """

    rate: float | None
    outcome: Literal["found", "none", "short"]
    latencies: Array
    probes: tuple[Probe, ...]


def arrivals(rate: float, count: int, seed: int) -> Array:
    """When each of `count` queries is due, in seconds: a Poisson process of `rate` a second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def serve(
    due: Array, run: Callable[[int], object], *, most: int, clock: Clock, give_up: Callable[[Array], bool] | None = None
) -> Array:
    """Answer queries through the simplest queue that batches: what waits, up to `most`, makes the next run.

    Args:
        due: seconds from now, ascending.
        run: computes so many rows.
        most: of a run.
        clock: to wait by.
        give_up: told the latencies of each run; True ends it.

    Returns:
        Milliseconds from when each query was due to its answer.
    """
    due = due + clock.now()
    taken = np.empty(len(due))
    begin = 0
    while begin < len(due):
        clock.until(float(due[begin]))
        end = max(begin + 1, min(int(np.searchsorted(due, clock.now(), side="right")), begin + most))
        run(end - begin)
        taken[begin:end] = 1000 * (clock.now() - due[begin:end])
        if give_up is not None and give_up(taken[begin:end]):
            return taken[:end]
        begin = end
    return taken


def probe(
    run: Callable[[int], object], rate: float, *, p99_ms: float, seconds: float, most: int, seed: int, clock: Clock
) -> Probe:
    """Serve at `rate` for about `seconds`, or until far too many queries were late."""
    count = int(rate * seconds)
    if late_allowed(CONFIRM * count, 0.99) < 0 or 1000 * seconds < _STEADY * p99_ms:
        return Probe(rate, count, np.empty(0), 0, None)
    late = 0

    def hopeless(latencies: Array) -> bool:
        nonlocal late
        late += int(np.count_nonzero(latencies > p99_ms))
        return late > 1 + _HOPELESS * count

    taken = serve(arrivals(rate, count, seed), run, most=most, clock=clock, give_up=hopeless)
    return Probe(rate, count, taken, late, late <= 0.01 * count)


def enough(rate: float, p99_ms: float) -> float:
    """Seconds that a search needs for its runs at `rate` to be long enough to tell."""
    return BUDGET * max(_STEADY * p99_ms / 1000, rounds_for_p99(PROOF) / CONFIRM / rate)


def late_allowed(count: int, q: float) -> int:
    """How many of `count` values may pass a bound that the q-quantile's upper limit keeps; -1: too few for a limit."""
    return count - 1 - ranks(count, q, PROOF)[1]


def greatest_rate(attempt: Callable[[float, int], Probe], high: float, *, seed: int = 0) -> Search:
    """The greatest rate that keeps the bound: bisection by what is seen, and then proof on other arrivals.

    Args:
        attempt: a run at a rate with the arrivals of a seed.
        high: queries a second that the model cannot pass, such as its throughput offline.
        seed: of the first run's arrivals; every run has its own.
    """
    probes: list[Probe] = []

    def at(rate: float) -> Probe:
        probes.append(attempt(rate, seed + len(probes)))
        return probes[-1]

    def spent() -> float:
        return sum(it.part for it in probes) if len(probes) < _MOST_PROBES else inf

    low = 0.0
    while high - low > _TOLERANCE * high and spent() < _BISECT:
        rate = (low + high) / 2
        # A slow spell of the machine must not take half of the range: a rate fails if it fails twice.
        if (verdict := at(rate).kept or at(rate).kept) is None:
            break
        low, high = (rate, high) if verdict else (low, rate)
    lower = 0.0
    while low > 0 and spent() < BUDGET:
        lower += _LOWER
        low *= 1 - lower
        if (confirmed := _confirmed(at, low)) is not None:
            return Search(low, "found", confirmed, tuple(probes))
    none = low == 0 and probes and probes[-1].kept is False
    return Search(None, "none" if none else "short", np.empty(0), tuple(probes))


def _confirmed(at: Callable[[float], Probe], rate: float) -> Array | None:
    """The latencies of all runs at a rate, if none is hopeless and their 99th percentile's upper limit keeps the bound.

    That limit keeps it where so few are late that a true share of a hundredth would show so few in 1% of all cases.
    """
    late, made = 0, list[Array]()
    for _ in range(CONFIRM):
        found = at(rate)
        late += found.late
        if found.kept is None or found.part < 1 or late > late_allowed(CONFIRM * found.queries, 0.99):
            return None
        made.append(found.latencies)
    return np.concatenate(made)


def single_stream(
    runs: Mapping[Name, Callable[[], object]], *, seconds: float, clock: Clock, order: Iterable[Name]
) -> dict[Name, Array]:
    """One query after the other, in stretches of 0.2 s that take turns.

    Args:
        runs: a query, by what answers it. Each is made once before the first that counts.
        seconds: for all of them.
        clock: to measure by.
        order: whose turn it is; endless.

    Returns:
        Milliseconds of each query, in order.
    """
    taken: dict[Name, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = clock.now() + seconds
    for name in order:
        start = clock.now()
        if start >= end and all(taken.values()):
            break
        stop, now = start + _STRETCH_S, start
        runs[name]()  # brings its weights back into the caches; not counted
        while now < stop or not taken[name]:
            begin = clock.now()
            runs[name]()
            now = clock.now()
            taken[name].append(1000 * (now - begin))
    return {name: np.asarray(values) for name, values in taken.items()}


def percentile(taken: Array, q: float) -> Percentile:
    """The q-quantile, if there are enough values for its upper limit."""
    high = quantile_limits(taken, q, CONFIDENCE)[1]
    return Percentile(None, None) if high is None else Percentile(float(np.quantile(taken, q)), high)
