"""The block that timings show, and what is kept of it."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.compress import kernels
from headway.compress.kernels import WIDTHS, Kind, block, blocks
from headway.core.machine import here
from headway.core.progress import SILENT


@given(
    size=st.sampled_from([4, 8, 16, 32]),
    offset=st.floats(0.01, 1),
    noise=st.lists(st.floats(-0.03, 0.03), min_size=len(WIDTHS), max_size=len(WIDTHS)),
)
def test_a_staircase_shows_its_step(size: int, offset: float, noise: list[float]) -> None:
    stairs = [offset + math.ceil(width / size) * size / 64 for width in WIDTHS]
    assert block(dict(zip(WIDTHS, stairs, strict=True))) == size
    step = size / 64
    noisy = {w: ms + step * n for w, ms, n in zip(WIDTHS, stairs, noise, strict=True)}
    assert block(noisy) == size


def test_a_straight_line_has_no_block() -> None:
    assert block({width: 0.1 + width / 100 for width in WIDTHS}) == 1
    assert block(dict.fromkeys(WIDTHS, 0.1)) == 1


def test_the_kernels_here_are_timed_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(here(), 1, SILENT)
    assert set(found) == {"convolution", "linear"}
    (file,) = (home / "cache" / "kernels").iterdir()
    kept = json.loads(file.read_text())
    assert len(kept["milliseconds"]["convolution"]) == len(WIDTHS)
    asked: list[Kind] = []

    def measure(kind: Kind, threads: int) -> dict[int, float]:
        asked.append(kind)
        return {width: 0.1 + math.ceil(width / 8) for width in WIDTHS}

    monkeypatch.setattr(kernels, "_measure", measure)
    assert blocks(here(), 1, SILENT) == found
    assert asked == []
    file.write_text(json.dumps({"blocks": {"convolution": 7, "linear": "many"}}))
    assert blocks(here(), 1, SILENT) == {"convolution": 8, "linear": 8}
    assert blocks(here(), 2, SILENT) == {"convolution": 8, "linear": 8}
    assert asked == ["convolution", "linear"] * 2
