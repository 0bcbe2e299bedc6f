"""Curves: thinning keeps what matters, and pictures show it."""

from hypothesis import given
from hypothesis import strategies as st

from headway.runs.curves import as_svg, in_terminal, thinned

_VALUES = st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=400)


@given(_VALUES, st.integers(4, 100))
def test_thinning_keeps_ends_and_extremes(values: list[float], points: int) -> None:
    steps = list(range(10, 10 + len(values)))
    kept_steps, kept = thinned((steps, values), points)
    assert len(kept) <= points
    assert kept_steps == sorted(set(kept_steps))
    assert (kept_steps[0], kept_steps[-1]) == (steps[0], steps[-1])
    assert (min(kept), max(kept)) == (min(values), max(values))
    assert all(values[steps.index(step)] == value for step, value in zip(kept_steps, kept, strict=True))
    if len(values) <= points:
        assert kept == values


def test_the_terminal_shows_a_curve_that_falls() -> None:
    steps = list(range(100))
    text = in_terminal({"one": (steps, [100.0 - step for step in steps])}, "loss")
    lines = [line.partition("|")[2] for line in text.splitlines() if "|" in line]
    inked = [[i for i, sign in enumerate(line) if "\u2801" <= sign <= "\u28ff"] for line in lines]
    tops = [columns[-1] for columns in inked if 2 < len(columns) < 40]  # not the axes alone
    assert len(tops) > 5
    assert tops == sorted(tops), "further down is further right"
    assert "loss" in text


def test_several_runs_are_told_apart() -> None:
    curves = {"first": ([1, 2, 3], [3.0, 2.0, 1.0]), "second": ([1, 2, 3], [1.0, 2.0, 3.0])}
    assert all(name in in_terminal(curves, "loss") for name in curves)
    svg = as_svg(curves, "loss")
    assert svg.startswith("<svg")
    assert all(f">{name}<" in svg for name in curves)


def test_one_point_and_no_change_can_be_drawn() -> None:
    assert in_terminal({"one": ([1], [0.5])}, "loss")
    assert "<svg" in as_svg({"one": ([1, 2], [0.0, 0.0])}, "loss")
