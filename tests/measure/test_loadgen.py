"""Load in MLPerf's shapes, on a clock that is simulated."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.measure.loadgen import (
    CONFIRM,
    PROOF,
    Array,
    Probe,
    Search,
    Wall,
    arrivals,
    greatest_rate,
    late_allowed,
    percentile,
    probe,
    serve,
    single_stream,
)
from headway.measure.order import quantile_limits


@dataclass
class Simulated:
    """A clock that stands still but for waiting and work, and a model that takes `a` ms a run and `b` a row."""

    a: float = 1.0
    b: float = 0.0
    time: float = 100.0
    batches: list[int] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def until(self, moment: float) -> None:
        self.time = max(self.time, moment)

    def run(self, rows: int) -> None:
        self.batches.append(rows)
        self.time += (self.a + self.b * rows) / 1000


@given(rate=st.floats(0.1, 1e5), seed=st.integers(0, 1000))
def test_arrivals_are_a_poisson_process_and_repeatable(rate: float, seed: int) -> None:
    due = arrivals(rate, 4000, seed)
    assert (due == arrivals(rate, 4000, seed)).all()
    assert (due != arrivals(rate, 4000, seed + 1)).any()
    between = np.diff(due, prepend=0.0)
    assert (between > 0).all()
    assert between.mean() == pytest.approx(1 / rate, rel=0.1)
    assert between.std() == pytest.approx(1 / rate, rel=0.15)  # as long as the mean: what a regular stream has not
    counts = np.bincount((due * rate / 10).astype(int), minlength=400)[:300]  # in windows where 10 are expected
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.5)


@settings(max_examples=60)
@given(
    rate=st.floats(10, 2000), a=st.floats(0.1, 20), b=st.floats(0, 2), most=st.integers(1, 32), seed=st.integers(0, 99)
)
def test_the_queue_answers_all_in_order_and_never_idles(rate: float, a: float, b: float, most: int, seed: int) -> None:
    clock, due = Simulated(a, b), arrivals(rate, 300, seed)
    taken = serve(due, clock.run, most=most, clock=clock)
    assert len(taken) == sum(clock.batches) == 300
    assert max(clock.batches) <= most
    done = due + taken / 1000
    assert (np.diff(done) >= -1e-9).all()
    begin, free = 0, 0.0
    for rows in clock.batches:
        start = max(free, due[begin])  # as soon as the model is free and somebody waits
        waiting = int(np.searchsorted(due, start, side="right")) - begin
        assert rows == max(1, min(waiting, most)) or abs(due[begin + rows - 1] - start) < 1e-9
        free = start + (a + b * rows) / 1000
        assert done[begin : begin + rows] == pytest.approx(free, abs=1e-9)
        begin += rows


def test_latency_counts_from_when_a_query_was_due() -> None:
    clock = Simulated(a=10)
    assert serve(np.array([0.0, 0.001, 0.1]), clock.run, most=1, clock=clock) == pytest.approx([10, 19, 10])


@given(count=st.integers(1, 3000), late=st.integers(0, 40))
def test_as_many_may_be_late_as_the_upper_limit_allows(count: int, late: int) -> None:
    late = min(late, count)
    values = np.concatenate([np.full(count - late, 1.0), np.full(late, 3.0)])
    limit = quantile_limits(values, 0.99, PROOF)[1]
    assert (late_allowed(count, 0.99) >= late) == (limit is not None and limit <= 2)
    assert (late_allowed(count, 0.99) < 0) == (count < 459)


def exact(limit: float) -> Callable[[float, int], Probe]:
    """Keeps rates up to `limit`."""

    def attempt(rate: float, seed: int) -> Probe:
        return Probe(rate, 1000, np.ones(1000 if rate <= limit else 10), 0 if rate <= limit else 10, rate <= limit)

    return attempt


@given(high=st.floats(1, 1e6), share=st.floats(0.05, 1))
def test_bisection_finds_the_rate(high: float, share: float) -> None:
    limit = share * high
    found = greatest_rate(exact(limit), high)
    assert found.outcome == "found"
    assert found.rate is not None
    assert 0.93 * limit <= found.rate <= limit
    assert len(found.latencies) == 1000 * CONFIRM
    assert len({it.rate for it in found.probes[-CONFIRM:]}) == 1


def test_a_rate_is_lowered_until_it_is_confirmed() -> None:
    tries: dict[float, int] = {}

    def lucky_once(rate: float, seed: int) -> Probe:
        """Above 500, passes at the first try and never again."""
        tries[rate] = tries.get(rate, 0) + 1
        kept = rate <= 500 or (rate <= 600 and tries[rate] == 1)
        return Probe(rate, 1000, np.ones(1000 if kept else 10), 0 if kept else 10, kept)

    found = greatest_rate(lucky_once, 1000)
    assert found.rate is not None
    assert 420 < found.rate <= 500


def test_one_slow_spell_does_not_halve_the_range() -> None:
    steady, number = exact(900), itertools.count()

    def attempt(rate: float, seed: int) -> Probe:
        return Probe(rate, 1000, np.ones(500), 31, False) if next(number) == 0 else steady(rate, seed)

    assert (greatest_rate(attempt, 1000).rate or 0) > 0.93 * 900


def test_every_run_has_other_arrivals() -> None:
    seeds: list[int] = []

    def attempt(rate: float, seed: int) -> Probe:
        seeds.append(seed)
        return exact(10)(rate, seed)

    greatest_rate(attempt, 100, seed=7)
    assert seeds == list(range(7, 7 + len(seeds)))


def test_no_rate_and_runs_that_are_too_short() -> None:
    assert greatest_rate(exact(0), 100).outcome == "none"
    short = greatest_rate(lambda rate, seed: Probe(rate, 3, np.empty(0), 0, None), 100)
    assert (short.outcome, short.rate) == ("short", None)
    clock = Simulated()
    assert probe(clock.run, 10, p99_ms=20, seconds=5, most=8, seed=0, clock=clock).kept is None  # 5 times 50 queries
    assert probe(clock.run, 1e4, p99_ms=20, seconds=0.1, most=8, seed=0, clock=clock).kept is None  # ends too soon
    assert clock.batches == []


def test_a_run_that_cannot_pass_ends_early() -> None:
    clock = Simulated(a=100)
    found = probe(clock.run, 1000, p99_ms=50, seconds=5, most=1, seed=0, clock=clock)
    assert found.kept is False
    assert sum(clock.batches) < 200 < found.queries


def waits(due: Array, service: float) -> Array:
    """Milliseconds in a queue of one server that takes one at a time: Lindley's recursion, unrolled."""
    reaches = due - service * np.arange(len(due))
    return 1000 * (np.maximum.accumulate(reaches) + service * (np.arange(len(due)) + 1) - due)


def searched(ms: float, times: float, seed: int) -> tuple[Search, float]:
    """What the search finds of a queue that takes one row a run and a fixed time, and the rate that is right.

    That one is known from a long run computed in another way.
    """
    clock, bound = Simulated(a=ms), ms * times

    def attempt(rate: float, number: int) -> Probe:
        return probe(clock.run, rate, p99_ms=bound, seconds=2 * ms, most=1, seed=number, clock=clock)

    low, high = 0.0, 1000 / ms
    for _ in range(12):
        rate = (low + high) / 2
        kept = np.quantile(waits(arrivals(rate, 100_000, 12345), ms / 1000), 0.99) <= bound
        low, high = (rate, high) if kept else (low, rate)
    return greatest_rate(attempt, 1000 / ms, seed=seed), low


@settings(max_examples=5, deadline=None)
@given(ms=st.floats(1, 4), times=st.floats(3, 20), seed=st.integers(0, 1000))
def test_the_rate_is_near_that_of_a_simulated_queue(ms: float, times: float, seed: int) -> None:
    found, right = searched(ms, times, seed)
    assert found.outcome != "none"
    if found.rate is not None:
        assert 0.4 * right < found.rate < 1.2 * right


def test_the_rate_is_seldom_too_high() -> None:
    parts = []
    for seed in range(12):
        found, right = searched(2.0, 4 + seed, 100 * seed)
        assert found.rate is not None
        parts.append(found.rate / right)
    assert 0.85 < np.median(parts) < 1
    assert sum(part > 1 for part in parts) <= 2


def test_batching_carries_more_than_one_at_a_time() -> None:
    rates = []
    for most in (1, 16):
        clock = Simulated(a=2, b=0.1)

        def attempt(rate: float, number: int, clock: Simulated = clock, most: int = most) -> Probe:
            return probe(clock.run, rate, p99_ms=20, seconds=3, most=most, seed=number, clock=clock)

        rates.append(greatest_rate(attempt, 1000 * most / (2 + 0.1 * most)).rate or 0)
    assert rates[1] > 5 * rates[0] > 0


def test_single_stream_takes_turns_one_query_after_the_other() -> None:
    clock = Simulated()

    def query(ms: float) -> Callable[[], None]:
        def run() -> None:
            clock.time += ms / 1000

        return run

    taken = single_stream({1: query(2), 2: query(8)}, seconds=4, clock=clock, order=itertools.cycle([1, 2]))
    assert set(taken[1].round(6)) == {2}
    assert set(taken[2].round(6)) == {8}
    assert taken[1].sum() == pytest.approx(taken[2].sum(), rel=0.1)
    assert clock.time - 100 == pytest.approx(4, abs=0.3)


def test_too_few_queries_have_no_percentile() -> None:
    assert percentile(np.arange(28.0), 0.9) == (None, None)
    value, high = percentile(np.arange(1000.0), 0.9)
    assert value is not None
    assert high is not None
    assert 895 < value < high < 930


def test_the_real_clock_does_not_return_early() -> None:
    clock = Wall()
    moment = clock.now() + 0.003
    clock.until(moment)
    assert clock.now() >= moment
    clock.until(moment - 1)
