"""A run that is killed again and again ends with the bits of one that was not."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.tiny import killed_blocks

from headway.train import checkpoint

Together = Callable[..., list[Any]]
_ENDLESS = 10**6


@pytest.mark.parametrize(("processes", "kills"), [(1, 20), (2, 5)])
def test_kills_at_random_leave_no_trace(together: Together, tmp_path: Path, processes: int, kills: int) -> None:
    steps = 12 * kills
    settings: dict[str, object] = {"epochs": steps / 4, "checkpoint_seconds": 1e-9}  # of four steps each
    expected, whole = together(processes, killed_blocks, settings, None, _ENDLESS, 0)[0]
    draw, reached = random.Random(0), [0]
    for _ in range(kills):
        with pytest.raises(AssertionError, match="ended without an answer"):
            together(processes, killed_blocks, settings, tmp_path, draw.randint(1, 6), draw.uniform(0, 0.005))
        if processes == 1 and (found := checkpoint.read(tmp_path)):
            reached.append(found.state["progress"]["step"])
    state, result = together(processes, killed_blocks, settings, tmp_path, _ENDLESS, 0)[0]
    assert reached == sorted(reached)  # nothing that was saved is lost
    assert result.resumed >= reached[-1]
    assert 0 < result.resumed < steps == result.steps
    assert [e.loss for e in result.history] == [e.loss for e in whole.history]
    assert all(np.array_equal(state[name], value) for name, value in expected.items())
