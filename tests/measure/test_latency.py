"""Interleaving: every subject in every round, and ratios that ignore what slows all."""

import numpy as np

from headway.measure.latency import RUNS_A_VISIT, interleave, rounds_for_p99, speedup, summarise


def test_every_subject_runs_in_every_round() -> None:
    calls: list[str] = []
    taken = interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0.01, least_rounds=5, most_rounds=5
    )
    assert {name: times.shape for name, times in taken.items()} == {"a": (5, RUNS_A_VISIT), "b": (5, RUNS_A_VISIT)}
    visit = 1 + RUNS_A_VISIT
    rounds = np.array(calls[6:]).reshape(5, 2, visit)  # after three warm-up runs of each
    assert all(set(r[:, 0]) == {"a", "b"} for r in rounds)
    assert all(len(set(v)) == 1 for r in rounds for v in r)


def test_a_slow_spell_does_not_move_the_ratio() -> None:
    draw = np.random.default_rng(0)
    spell = np.repeat([1.0, 5.0], 100)[:, None]
    fast = draw.gamma(100, 0.01, (200, 3)) * spell
    slow = 2 * draw.gamma(100, 0.01, (200, 3)) * spell
    low, middle, high = speedup(slow, fast, 0.95)
    assert low < middle < high
    assert high - low < 0.1
    assert abs(middle - 2) < 0.05


def test_summary_counts_single_runs() -> None:
    found = summarise(np.arange(900.0).reshape(300, 3), 0.95)
    assert found.runs == 900
    assert found.p99_high == 897.0
    assert found.p50 == 449.5


def test_runs_of_one_visit_are_not_counted_as_independent() -> None:
    """Three equal runs a visit say no more of the 99th percentile than one."""
    visits = np.random.default_rng(0).gamma(2, 1, (290, 1))
    assert summarise(np.repeat(visits, 3, axis=1), 0.95).p99_high is None
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        high = summarise(np.repeat(draw.exponential(1, (330, 1)), 3, axis=1), 0.95).p99_high
        covered += high is not None and high >= np.log(100)
    assert covered >= 930


def test_enough_rounds_for_an_upper_limit_of_the_99th_percentile() -> None:
    for confidence in (0.95, 0.983, 0.999):
        rounds = rounds_for_p99(confidence)
        runs = np.arange(rounds * RUNS_A_VISIT, dtype=float).reshape(rounds, RUNS_A_VISIT)
        assert summarise(runs, confidence).p99_high is not None
