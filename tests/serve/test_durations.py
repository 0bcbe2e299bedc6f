"""What is learned of how long runs take: a line, from runs that are noisy, of one size, or disturbed."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.serve.durations import Durations


def learned(runs: Iterable[tuple[int, float]]) -> Durations:
    durations = Durations()
    for cost, seconds in runs:
        durations.learn(cost, seconds)
    return durations


@settings(deadline=None)
@given(st.floats(1e-5, 1e-2), st.floats(0, 1e-1), st.lists(st.integers(1, 2000), min_size=1, max_size=60), st.randoms())
def test_exact_runs_give_their_line(per_unit: float, fixed: float, costs: list[int], chance: random.Random) -> None:
    line = learned((cost, per_unit * cost + fixed) for cost in [1, *costs, 64])
    assert line.known
    for cost in costs:
        assert line.of(cost) == pytest.approx(per_unit * cost + fixed, rel=1e-3)
    assert line.fixed == pytest.approx(fixed, rel=1e-3, abs=1e-3 * per_unit)


def test_nothing_is_known_before_runs_of_different_cost_were_seen() -> None:
    line = learned([(4, 0.01)] * 50)
    assert not line.known
    assert (line.per_unit, line.fixed) == (0, 0)


def test_noise_and_a_disturbed_machine_are_averaged_out() -> None:
    chance = random.Random(0)
    runs = []
    for _ in range(400):
        cost = chance.choice((1, 2, 3, 5, 8, 13, 21, 32))
        disturbed = 50.0 if chance.random() < 0.02 else 1.0
        runs.append((cost, (0.001 * cost + 0.004) * chance.uniform(0.9, 1.1) * disturbed))
    line = learned(runs)
    assert line.per_unit == pytest.approx(0.001, rel=0.25)
    assert line.fixed == pytest.approx(0.004, rel=0.25)


def test_a_first_run_that_was_disturbed_is_forgotten() -> None:
    line = learned([(1, 1.0), (32, 0.036), *([(1, 0.005)] * 60)])
    assert line.fixed == pytest.approx(0.004, rel=0.3)


def test_many_runs_of_one_size_do_not_unlearn_the_line() -> None:
    line = learned([(1, 0.005), (32, 0.036), *([(16, 0.020)] * 2000)])
    assert line.per_unit == pytest.approx(0.001, rel=0.05)
    assert line.fixed == pytest.approx(0.004, rel=0.05)


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    before = [(cost, 0.001 * cost + 0.004) for cost in (1, 4, 32)] * 50
    after = [(cost, 2 * seconds) for cost, seconds in before]
    line = learned(before + after)
    assert line.of(16) == pytest.approx(0.040, rel=0.1)


def test_runs_that_grow_faster_than_their_cost_have_no_negative_part() -> None:
    line = learned([(1, 0.001), (10, 0.1), (1, 0.001), (10, 0.1)])
    assert line.fixed == 0
    assert line.per_unit > 0
