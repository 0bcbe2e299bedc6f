"""The soak test in its short form: the same server, callers and verdict as `make soak`, for seconds."""

from pathlib import Path

import pytest
from benchmarks.serving.flat import BLOCKS, growth
from benchmarks.serving.soak import report, soak


@pytest.mark.slow
@pytest.mark.alone
def test_every_request_is_answered_once_under_callers_that_crash_cancel_and_lie(tmp_path: Path, home: Path) -> None:
    found = soak(tmp_path, seconds=15, growth_mb=100)
    assert found.mistakes == [], report(found)
    assert found.calm["right"] == found.counted["calm"]["ok"] > 0
    assert found.beside["right"] > 0
    assert found.kills > 1


def test_growth_is_told_from_noise() -> None:
    # A sawtooth of 3 MB, as memory that is used and freed has, whose teeth fit the blocks badly.
    seconds = [n / 4 for n in range(40 * BLOCKS)]
    saw = [100 + 3 * (n % 97) / 96 for n in range(len(seconds))]
    flat = growth(seconds, saw)
    assert flat.low < 0 < flat.high
    assert flat.at_most_mb < 3
    leak = growth(seconds, [value + 0.05 * second for value, second in zip(saw, seconds, strict=True)])
    assert leak.low > 0
    assert leak.low < 3 < leak.high  # MB a minute
    assert leak.slope - flat.slope == pytest.approx(3, rel=0.01)


def test_what_is_taken_at_the_beginning_is_no_growth() -> None:
    values = [50.0] * 100 + [150.0] * 400
    found = growth([n / 4 for n in range(500)], values)
    assert found.slope == pytest.approx(0, abs=1e-9)
    assert (found.first_mb, found.last_mb) == (150, 150)
