"""Batches stay within memory, and the point that is named is the best one."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.bundles.manifest import Latency
from headway.measure.sweep import (
    SHARE,
    Climb,
    Point,
    Trial,
    best,
    climb,
    expected_peak,
    groups,
    knee,
    point,
    undecided,
)

MB = 1e6


def growing(batch: int) -> float:
    """Milliseconds of a run whose throughput always grows."""
    return 10 + batch / 100


def simulated(
    loaded: float, row: float, ms: Callable[[int], float] = growing, threads: tuple[int, ...] = (1,)
) -> Callable[[int], list[Trial]]:
    def attempt(batch: int) -> list[Trial]:
        return [Trial(batch, count, loaded, loaded + row * batch, ms(batch) / count) for count in threads]

    return attempt


@given(
    loaded=st.floats(0, 100 * MB),
    row=st.floats(0, 100 * MB),
    exponent=st.floats(0.5, 1),
    room=st.floats(1 * MB, 10_000 * MB),
)
def test_no_batch_ever_takes_more_than_its_share_of_memory(
    loaded: float, row: float, exponent: float, room: float
) -> None:
    def attempt(batch: int) -> list[Trial]:
        return [Trial(batch, 1, loaded, loaded + row * batch**exponent, growing(batch))]

    found = climb(attempt, room=lambda: room, most=1 << 20)
    assert all(it.peak <= SHARE * room * (1 + 1e-9) for it in found.trials[1:])
    if found.stopped == "memory":
        assert found.expected is not None
        assert found.expected > SHARE * room
    if exponent == 1 and found.stopped == "memory":
        assert found.expected == pytest.approx(loaded + row * 2 * found.trials[-1].batch)


def test_the_room_that_others_take_meanwhile_counts() -> None:
    room = iter([1000 * MB, 1000 * MB, 50 * MB])
    found = climb(simulated(10 * MB, 10 * MB), room=lambda: next(room), most=1024)
    assert [it.batch for it in found.trials] == [1, 2, 4]
    assert (found.stopped, found.expected) == ("memory", pytest.approx(90 * MB))


@given(loaded=st.floats(0, 1e9), row=st.floats(0, 1e8), sizes=st.integers(1, 8))
def test_memory_in_proportion_is_foreseen_exactly(loaded: float, row: float, sizes: int) -> None:
    trials = [it for power in range(sizes) for it in simulated(loaded, row)(2**power)]
    assert expected_peak(trials, 2**sizes) == pytest.approx(loaded + row * 2**sizes, rel=1e-6, abs=1)


def test_memory_that_begins_to_rise_faster_is_foreseen_by_the_last_step() -> None:
    peaks = {1: 10 * MB, 2: 11 * MB, 4: 12 * MB, 8: 40 * MB}
    trials = [Trial(batch, 1, 9 * MB, peak, 1.0) for batch, peak in peaks.items()]
    assert expected_peak(trials, 16) >= 40 * MB + 8 * 7 * MB


@given(until=st.integers(0, 7))
def test_the_climb_ends_where_throughput_stops_growing(until: int) -> None:
    def ms(batch: int) -> float:
        return 1.0 if batch <= 2**until else batch / 2**until

    found = climb(simulated(0, 1, ms), room=lambda: 1e12, most=1 << 20)
    assert found.stopped == "plateau"
    assert found.trials[-1].batch == 2 ** (until + 3)


def test_why_the_climb_ends() -> None:
    def run(most: int = 1024, within_ms: float = float("inf"), fails_at: int = 0) -> Climb:
        def attempt(batch: int) -> list[Trial]:
            if batch == fails_at:
                raise RuntimeError("cannot\nreshape")
            return simulated(0, 1, threads=(1, 2))(batch)

        return climb(attempt, room=lambda: 1e12, most=most, within_ms=within_ms)

    assert run(most=100).stopped == "limit"
    assert run(most=100).trials[-1].batch == 64
    late = run(within_ms=5.1)
    assert (late.stopped, late.trials[-1].batch) == ("latency", 32)  # (10 + 32 / 100) / 2 > 5.1, with 16 not
    refused = run(fails_at=4)
    assert (refused.stopped, refused.reason) == ("refused", "cannot reshape")
    assert {it.batch for it in refused.trials} == {1, 2}
    with pytest.raises(RuntimeError):
        run(fails_at=1)


@given(
    peaks=st.dictionaries(st.tuples(st.integers(1, 64), st.integers(1, 4)), st.floats(0, 100), min_size=1),
    room=st.floats(1, 300),
)
def test_what_takes_turns_fits_together(peaks: dict[tuple[int, int], float], room: float) -> None:
    made = groups(peaks, room)
    assert sorted(candidate for group in made for candidate in group) == sorted(peaks)
    assert all(len(group) == 1 or sum(peaks[it] for it in group) <= SHARE * room for group in made)
    if sum(peaks.values()) <= SHARE * room:
        assert len(made) == 1


def a_point(rows_s: float, p99: float, high: float | None, batch: int = 1, p50: float = 1.0) -> Point:
    latency = Latency(p50=p50, p90=p99, p99=p99, p99_low=p99, p99_high=high, runs=1000)
    return Point(
        batch=batch, threads=1, rows_s=rows_s, rows_s_low=rows_s, rows_s_high=rows_s, latency=latency, memory_mb=1
    )


_POINTS = st.lists(
    st.builds(
        a_point,
        st.floats(1, 1e4),
        st.floats(1, 50),
        st.one_of(st.none(), st.floats(1, 100)),
        st.integers(1, 128),
        st.floats(0.1, 50),
    ),
    min_size=1,
)


@given(_POINTS, st.floats(0.5, 120))
def test_the_best_point_is_within_the_bound_and_none_within_is_better(points: list[Point], bound: float) -> None:
    chosen = best(points, bound)
    within = [it for it in points if it.latency.p99_high is not None and it.latency.p99_high <= bound]
    assert (chosen is None) == (not within)
    if chosen is not None:
        assert chosen in within
        assert chosen.rows_s == max(it.rows_s for it in within)


def test_the_upper_limit_decides_and_not_the_percentile() -> None:
    seen_within, known_within = a_point(200, 9, 11), a_point(100, 9, 9.5)
    assert best([seen_within, known_within], 10) == known_within
    assert not undecided([seen_within], 10)
    assert undecided([a_point(1, 9, None)], 10)
    assert not undecided([a_point(1, 90, None, p50=80)], 10)


@given(_POINTS)
def test_the_knee_is_the_smallest_batch_that_is_nearly_the_best(points: list[Point]) -> None:
    found, top = knee(points), max(it.rows_s for it in points)
    assert found.rows_s >= 0.95 * top
    assert all(it.rows_s < 0.95 * top for it in points if it.batch < found.batch)


def test_a_points_figures() -> None:
    taken = np.tile(np.array([[4.0, 5.0, 6.0]]), (400, 1))
    found = point(Trial(10, 2, 1 * MB, 3 * MB, 5.0), taken, 0.95)
    assert found.rows_s == found.rows_s_low == found.rows_s_high == 2000
    assert (found.latency.p50, found.memory_mb) == (5, 3)
    assert point(Trial(10, 2, 1, 3, 5.0), taken[:20], 0.95).latency.p99_high is None
