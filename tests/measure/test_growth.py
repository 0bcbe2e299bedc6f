"""Growth is told from noise, from a beginning, and from a step."""

import pytest

from headway.measure.growth import BLOCKS, growth


def test_growth_is_told_from_noise() -> None:
    # A sawtooth of 3 MB, as memory that is used and freed has, whose teeth fit the blocks badly.
    seconds = [n / 4 for n in range(40 * BLOCKS)]
    saw = [100 + 3 * (n % 97) / 96 for n in range(len(seconds))]
    minutes = [second / 60 for second in seconds]
    flat = growth(minutes, saw)
    assert flat.low < 0 < flat.high
    assert flat.at_most < 3
    leak = growth(minutes, [value + 0.05 * second for value, second in zip(saw, seconds, strict=True)])
    assert leak.low > 0
    assert leak.low < 3 < leak.high  # MB a minute
    assert leak.slope - flat.slope == pytest.approx(3, rel=0.01)


def test_what_is_taken_at_the_beginning_is_no_growth() -> None:
    values = [50.0] * 100 + [150.0] * 400
    found = growth([n / 4 for n in range(500)], values)
    assert found.slope == pytest.approx(0, abs=1e-9)
    assert (found.first, found.last) == (150, 150)


def test_one_step_is_no_steady_growth() -> None:
    step = [0.0] * 8 + [1.0] * 8
    found = growth(range(16), step, warm_up=0)
    assert found.low > 0  # as far as the line can tell
    assert not found.steady
    assert growth(range(16), [float(n) for n in range(16)], warm_up=0).steady
