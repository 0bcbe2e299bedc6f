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
    found = summarise(np.arange(300.0).reshape(100, 3), 0.95)
    assert found.runs == 300
    assert found.p99_high == 299.0
    assert found.p50 == 149.5


def test_enough_rounds_for_an_upper_limit_of_the_99th_percentile() -> None:
    for confidence in (0.95, 0.983, 0.999):
        runs = np.arange(rounds_for_p99(confidence) * RUNS_A_VISIT, dtype=float).reshape(-1, RUNS_A_VISIT)
        assert summarise(runs, confidence).p99_high is not None
