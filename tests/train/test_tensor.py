"""Layers that several processes share learn what whole ones learn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.train.tiny import State, trained_sentences

Together = Callable[..., list[Any]]


def _close(one: State, other: State, tolerance: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("processes", "parallel", "settings"),
    [
        (2, {"tensor": 2}, {}),
        (2, {"tensor": 2}, {"batch_size": 5, "accumulate": 3, "clip": 0.05, "checkpoint_activations": "full"}),
        (4, {"tensor": 2}, {}),
        (4, {"tensor": 2, "shard": 2}, {"clip": 0.05}),
        (4, {"tensor": 4}, {}),
    ],
)
def test_shared_layers_learn_what_one_process_learns(
    together: Together, processes: int, parallel: dict[str, int], settings: dict[str, object]
) -> None:
    settings = {"optimizer": "sgd", "lr": 0.05, **settings}
    alone, whole = trained_sentences({**settings, "checkpoint_activations": "none"})
    found = together(processes, trained_sentences, {**settings, "parallel": parallel})
    for state, result in found:
        _close(alone, state)
        assert [e.loss for e in result.history] == pytest.approx([e.loss for e in whole.history], rel=1e-5)
