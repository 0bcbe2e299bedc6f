"""The modes of `headway bench`: a sweep over batches, and load of MLPerf's shapes."""

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import ceil, inf, log2
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from headway.bundles.golden import of_rows
from headway.core.errors import DataError, HeadwayError
from headway.core.heap import trim
from headway.core.progress import Progress
from headway.core.tensors import Array, TensorSpec
from headway.measure import loadgen, sweep
from headway.measure.latency import interleave, rounds_for_p99
from headway.measure.loadgen import BUDGET, CONFIDENCE, Probe, Wall, percentile
from headway.measure.memory import forget_peak, resident
from headway.measure.order import median_interval
from headway.measure.sweep import Candidate, Climb, Point, Trial
from headway.runtimes.runtime import Runtime, Session
from headway.shipping.opened import Opened

Mode = Literal["sweep", "single-stream", "server", "offline"]
Inputs = dict[str, Array]
_LEAST_ROUNDS, _TRIES, _TRY_S = 10, 5, 1.0


class Result(BaseModel):
    """Base of what a mode finds."""

    model_config = ConfigDict(frozen=True)


class Sweep(Result):
    """Batches by throughput and latency.

    Attributes:
        points: figures from turns, by batch and threads.
        rounds: turns that each candidate had, at least.
        groups: in how many groups they took turns: more than one where memory does not hold all of them.
        best: the greatest throughput within the bound on the 99th percentile; None without a bound, or without one.
        undecided: none is known to keep the bound, and one may: it was run too seldom.
        seconds: that would tell.
        knee: the smallest batch within 5% of the best throughput.
    """

    points: tuple[Point, ...]
    rounds: int
    groups: int
    best: Point | None
    undecided: bool
    seconds: float
    knee: Point


class Stream(Result):
    """Single queries one after the other, milliseconds; None where they are too few for the percentile's limit."""

    threads: int
    queries: int
    p50: float
    p90: float | None
    p90_high: float | None


class Rate(Result):
    """One run at a rate; `kept` is None where it was too short to tell."""

    queries_s: float
    queries: int
    answered: int
    kept: bool | None


class Server(Result):
    """The greatest Poisson rate that keeps the bound; see `loadgen.Search`.

    Attributes:
        seconds: that should tell, where these did not.
    """

    outcome: Literal["found", "none", "short"]
    queries_s: float | None
    p50: float | None
    p99: float | None
    p99_high: float | None
    probes: tuple[Rate, ...]
    max_batch: int
    threads: int
    seconds: float


class Offline(Result):
    """All rows at once, in batches: the throughput of the median run, with limits."""

    rows: int
    rows_s: float
    rows_s_low: float
    rows_s_high: float
    batch: int
    threads: int


class Subject(NamedTuple):
    """What is measured, and within which limits.

    Attributes:
        inputs: of a run, by name; `batch` makes as many rows of them as are wanted.
        specs: the model's inputs.
        threads: of a run, each tried.
        most: the largest batch.
        room: bytes of memory allowed just now.
        p99_ms: bound on the 99th percentile; infinity for none.
        seconds: to measure in, about.
        seed: of turns and arrivals.
    """

    model: Opened
    runtime: Runtime
    inputs: Inputs
    specs: tuple[TensorSpec, ...]
    threads: tuple[int, ...]
    most: int
    room: Callable[[], float]
    p99_ms: float
    seconds: float
    seed: int
    progress: Progress

    @property
    def varies(self) -> bool:
        """Whether the batch does."""
        return any(spec.batched for spec in self.specs)

    @property
    def rows(self) -> int:
        """Of the smallest batch."""
        return 1 if self.varies else next((len(value) for value in self.inputs.values() if value.ndim), 1)

    def batch(self, rows: int) -> Inputs:
        """Inputs of so many rows."""
        return of_rows(self.inputs, self.specs, rows)


def _climb(subject: Subject, within_ms: float = inf) -> Climb:
    if not subject.varies:
        return Climb(tuple(_attempt(subject, subject.rows)), "fixed")
    sizes = int(log2(subject.most)) + 1
    with subject.progress.work("try batches", sizes) as bar:

        def attempt(batch: int) -> list[Trial]:
            bar.advance(0, f"batch {batch}")
            found = _attempt(subject, batch)
            bar.advance(1)
            return found

        found = sweep.climb(attempt, room=subject.room, most=subject.most, within_ms=within_ms)
        bar.advance(sizes - len({it.batch for it in found.trials}))
    return found


def _attempt(subject: Subject, batch: int) -> list[Trial]:
    """Load the model anew for each number of threads, so that what one run leaves behind is not another's memory."""
    trials = []
    for threads in subject.threads:
        gc.collect()
        trim()
        before, exact = resident("VmRSS"), forget_peak()
        session = subject.runtime.load(subject.model.file, threads=threads)
        try:
            loaded = resident("VmRSS") - before
            inputs = subject.batch(batch)
            ms = _quick(partial(session.run, inputs))
            peak = resident("VmHWM" if exact else "VmRSS") - before
        except HeadwayError:
            raise
        except Exception as error:  # an engine raises what it likes
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"the model fails at batch {batch}: {reason}", where=str(subject.model.file)) from error
        finally:
            session.close()
        trials.append(Trial(batch, threads, loaded, max(peak, loaded), ms))
    return trials


def _quick(run: Callable[[], object]) -> float:
    """Milliseconds of the quickest of a few runs."""
    run()
    taken: list[float] = []
    while len(taken) < _TRIES and sum(taken) < _TRY_S:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return 1000 * min(taken)


@contextmanager
def _sessions(subject: Subject, candidates: Sequence[Candidate]) -> Iterator[dict[Candidate, Session]]:
    """A session of its own for each candidate, as a service that runs it would have."""
    with ExitStack() as stack:
        held = {}
        for batch, threads in candidates:
            session = held[batch, threads] = subject.runtime.load(subject.model.file, threads=threads)
            stack.callback(session.close)
        yield held


def _sweep(subject: Subject) -> tuple[Sweep, Climb]:
    climbed = _climb(subject, subject.p99_ms)
    trials = {(it.batch, it.threads): it for it in climbed.trials}
    confidence = 1 - (1 - CONFIDENCE) / len(trials)  # shared: the best is picked among them
    most = rounds_for_p99(confidence)
    held = sweep.groups({candidate: it.peak for candidate, it in trials.items()}, subject.room())
    points: list[Point] = []
    rounds = most
    for i, group in enumerate(held, 1):
        with _sessions(subject, group) as sessions:
            runs = {
                f"{batch} x{threads}": partial(session.run, subject.batch(batch))
                for (batch, threads), session in sessions.items()
            }
            taken = interleave(
                runs, seconds=subject.seconds / len(held), least_rounds=_LEAST_ROUNDS, most_rounds=most,
                seed=subject.seed, progress=subject.progress,
                title="take turns" if len(held) == 1 else f"take turns, {i} of {len(held)}",
            )  # fmt: skip
        points += [sweep.point(trials[it], taken[f"{it[0]} x{it[1]}"], confidence) for it in group]
        rounds = min(rounds, *(len(rows) for rows in taken.values()))
        trim()
    bounded = subject.p99_ms < inf
    chosen = sweep.best(points, subject.p99_ms) if bounded else None
    return Sweep(
        points=tuple(points),
        rounds=rounds,
        groups=len(held),
        best=chosen,
        undecided=bounded and chosen is None and sweep.undecided(points, subject.p99_ms),
        seconds=float(ceil(max(subject.seconds, 1.0) * 1.2 * most / rounds)),
        knee=sweep.knee(points),
    ), climbed


def _single_stream(subject: Subject) -> tuple[tuple[Stream, ...], None]:
    query = subject.batch(subject.rows)
    with _sessions(subject, [(subject.rows, threads) for threads in subject.threads]) as sessions:
        runs = {threads: partial(session.run, query) for (_, threads), session in sessions.items()}
        with subject.progress.work("single stream", subject.seconds) as bar:
            order = _told(itertools.cycle(subject.threads), bar.advance, subject.seconds)
            taken = loadgen.single_stream(runs, seconds=subject.seconds, clock=Wall(), order=order)
    found = []
    for threads, values in taken.items():
        p90, high = percentile(values, 0.9)
        found.append(Stream(threads=threads, queries=len(values), p50=float(np.median(values)), p90=p90, p90_high=high))
    return tuple(found), None


def _told(names: Iterator[int], advance: Callable[[float], None], seconds: float) -> Iterator[int]:
    """The same names; each time one is asked for, the bar moves on to the time that has passed."""
    start = last = time.perf_counter()
    for name in names:
        now = time.perf_counter()
        advance(max(0.0, min(now - start, seconds) - min(last - start, seconds)))
        last = now
        yield name


def _server(subject: Subject) -> tuple[Server, Climb]:
    climbed = _climb(subject, subject.p99_ms)
    # One session that runs batches of all sizes keeps what they leave behind: up to twice what the largest takes alone.
    room = sweep.SHARE * subject.room() / 2
    fit = [it for it in climbed.trials if it.ms <= subject.p99_ms and it.peak <= room] or climbed.trials[:1]
    fastest = max(fit, key=lambda it: it.rows_s)
    most = max(it.batch for it in fit if it.threads == fastest.threads)
    each = subject.seconds / BUDGET
    with _sessions(subject, [(most, fastest.threads)]) as sessions:
        (session,) = sessions.values()
        run = _queue(session, subject, most)
        with subject.progress.work("find the rate", BUDGET) as bar:

            def attempt(rate: float, seed: int) -> Probe:
                bar.advance(0, f"{rate:,.1f} queries/s")
                made = loadgen.probe(
                    run, rate, p99_ms=subject.p99_ms, seconds=each, most=most // subject.rows, seed=seed,
                    clock=Wall(),
                )  # fmt: skip
                bar.advance(made.part)
                return made

            found = loadgen.greatest_rate(attempt, fastest.rows_s / subject.rows, seed=subject.seed)
            bar.advance(max(0.0, BUDGET - sum(it.part for it in found.probes)))
    p99, high = percentile(found.latencies, 0.99) if found.rate is not None else (None, None)
    return Server(
        outcome=found.outcome,
        queries_s=found.rate,
        p50=float(np.median(found.latencies)) if found.rate is not None else None,
        p99=p99,
        p99_high=high,
        probes=tuple(
            Rate(queries_s=it.rate, queries=it.queries, answered=len(it.latencies), kept=it.kept) for it in found.probes
        ),
        max_batch=most,
        threads=fastest.threads,
        seconds=float(ceil(max(2 * subject.seconds, loadgen.enough(found.probes[-1].rate, subject.p99_ms)))),
    ), climbed


def _queue(session: Session, subject: Subject, most: int) -> Callable[[int], object]:
    """Runs of so many queries, whose rows are put together as a server does. Warm for batches of every power of two."""
    held = subject.batch(max(most, subject.rows))
    batched = {spec.name for spec in subject.specs if spec.batched}

    def run(queries: int) -> object:
        rows = np.arange(queries)
        return session.run({name: value[rows] if name in batched else value for name, value in held.items()})

    for power in range(int(log2(max(1, most // subject.rows))) + 1):
        run(2**power)
    return run


def _offline(subject: Subject) -> tuple[Offline, Climb]:
    climbed = _climb(subject)
    fastest = max(climbed.trials, key=lambda it: it.rows_s)
    inputs, taken = subject.batch(fastest.batch), list[float]()
    with _sessions(subject, [(fastest.batch, fastest.threads)]) as sessions:
        (session,) = sessions.values()
        session.run(inputs)
        with subject.progress.work("offline", subject.seconds) as bar:
            while (spent := sum(taken)) < subject.seconds or len(taken) < _TRIES:
                begin = time.perf_counter()
                session.run(inputs)
                taken.append(time.perf_counter() - begin)
                bar.advance(min(taken[-1], max(0.0, subject.seconds - spent)))
    low, middle, high = median_interval(np.array(taken), CONFIDENCE)
    return Offline(
        rows=fastest.batch * len(taken),
        rows_s=fastest.batch / middle,
        rows_s_low=fastest.batch / high,
        rows_s_high=fastest.batch / low,
        batch=fastest.batch,
        threads=fastest.threads,
    ), climbed


MODES: Mapping[Mode, Callable[[Subject], tuple[Any, Climb | None]]] = {
    "sweep": _sweep,
    "single-stream": _single_stream,
    "server": _server,
    "offline": _offline,
}
