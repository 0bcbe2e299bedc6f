"""The adaptive policy against callers of every kind, in simulated time, beside the fixed one."""

import random
from collections.abc import Callable

import pytest
from tests.serve.queueing import Outcome, Simulation

from headway.serve.adaptive import EDGES, Adaptive
from headway.serve.batcher import BatchLimits
from headway.serve.durations import Durations

FIXED = BatchLimits(queue_rows=100_000)
ADAPTIVE = BatchLimits(queue_rows=100_000, adaptive=True)
MODELS = {"rows cost": (1.0, 0.1), "both": (1.0, 4.0), "runs cost": (0.3, 8.0), "weights only": (0.05, 10.0)}
"""Milliseconds a row and a run."""


def duration(a_ms: float, b_ms: float, seed: int = 0) -> Callable[[int], float]:
    chance = random.Random(seed)
    return lambda rows: (a_ms * rows + b_ms) / 1e3 * chance.uniform(0.95, 1.15)


def both(a_ms: float, b_ms: float, run: Callable[[Simulation], Outcome]) -> tuple[Outcome, Outcome]:
    fixed, adaptive = (run(Simulation(limits, duration(a_ms, b_ms))) for limits in (FIXED, ADAPTIVE))
    return fixed, adaptive


def comes_back(after_ms: float) -> Callable[[], float]:
    chance = random.Random(1)
    return lambda: after_ms / 1e3 * chance.uniform(0.5, 1.5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("load", [0.2, 0.6, 0.9])
def test_independent_requests_are_answered_as_soon_as_by_the_fixed_policy(model: str, load: float) -> None:
    a_ms, b_ms = MODELS[model]
    rate = load * 32 / (32 * a_ms + b_ms) * 1e3
    fixed, adaptive = both(a_ms, b_ms, lambda simulation: simulation.poisson(rate, 3000))
    assert adaptive.percentile(0.99) <= 1.05 * fixed.percentile(0.99)
    assert sum(adaptive.latencies) <= 1.02 * sum(fixed.latencies)
    assert adaptive.throughput >= 0.99 * fixed.throughput


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("callers", [1, 2, 4, 8, 32, 64])
def test_callers_who_ask_again_are_answered_no_later_and_no_fewer(model: str, callers: int) -> None:
    fixed, adaptive = both(*MODELS[model], lambda simulation: simulation.callers(callers, comes_back(0.5), 3000))
    assert adaptive.throughput >= 0.99 * fixed.throughput
    assert adaptive.percentile(0.99) <= 1.05 * fixed.percentile(0.99)


@pytest.mark.parametrize(("model", "callers"), [("both", 4), ("runs cost", 8), ("weights only", 32)])
def test_where_a_run_costs_much_the_callers_are_gathered(model: str, callers: int) -> None:
    a_ms, b_ms = MODELS[model]
    fixed, adaptive = both(a_ms, b_ms, lambda simulation: simulation.callers(callers, comes_back(0.5), 3000))
    two_halves = (callers * a_ms + 2 * b_ms) / (callers * a_ms + b_ms + 1)
    assert adaptive.throughput >= 0.9 * two_halves * fixed.throughput
    assert adaptive.percentile(0.99) <= fixed.percentile(0.99)
    assert {len(batch) for batch in adaptive.batches[-20:]} == {callers}


def test_slow_callers_are_not_waited_for() -> None:
    fixed, adaptive = both(1.0, 4.0, lambda simulation: simulation.callers(8, comes_back(40), 2000))
    assert adaptive.percentile(0.99) <= 1.05 * fixed.percentile(0.99)


def test_callers_among_independent_requests_are_not_waited_for_at_the_cost_of_the_others() -> None:
    """Half of the load comes back at once, half knows nothing of anybody."""
    fixed, adaptive = both(0.3, 8.0, lambda simulation: simulation.poisson(150, 2000, callers=4, think=comes_back(0.5)))
    assert sum(adaptive.latencies) / len(adaptive.latencies) <= 1.02 * sum(fixed.latencies) / len(fixed.latencies)


def test_nobody_waits_for_a_run_that_would_end_past_the_latency_target() -> None:
    fixed, adaptive = both(0.3, 8.0, lambda simulation: simulation.callers(8, comes_back(0.5), 1000))
    strict = BatchLimits(queue_rows=100_000, adaptive=True, latency_target=0.009)
    bounded = Simulation(strict, duration(0.3, 8.0)).callers(8, comes_back(0.5), 1000)
    assert adaptive.throughput > 1.3 * fixed.throughput
    assert bounded.throughput == pytest.approx(fixed.throughput, rel=0.02)


def test_a_wait_ends_once_the_expected_are_there_and_never_outlasts_the_last_edge() -> None:
    durations = Durations()
    for cost in (1, 32):
        durations.learn(cost, 0.0001 * cost + 0.020)
    policy = Adaptive(durations, None)
    now = 0.0
    for _ in range(20):  # four callers, each back within 0.5 ms
        policy.ended(now, 4, 0)
        for number in range(4):
            policy.arrived(now + 0.0001 * (number + 1), 1)
        now += 0.021
    policy.ended(now, 4, 0)
    policy.arrived(now + 0.0001, 1)
    until = policy.start(now + 0.0001)
    assert now + 0.0001 < until <= now + EDGES[-1]
    assert policy.start(until) == until, "still waiting at the end of the wait"
    for _ in range(3):
        policy.arrived(now + 0.0003, 1)
    assert policy.start(now + 0.0003) == now + 0.0003, "still waiting although all are there"


def test_short_runs_are_not_studied() -> None:
    durations = Durations()
    for cost in (1, 32):
        durations.learn(cost, 0.00001 * cost + 0.0001)
    policy = Adaptive(durations, 0.010)
    for number in range(20):
        policy.ended(number / 100, 4, 2)
        policy.arrived(number / 100, 1)
    assert policy.start(0.2) == 0.2
