"""Several processes come to the weights of one, whatever the mix."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.train.tiny import State, trained_blocks

Together = Callable[..., list[Any]]


def _close(one: State, other: State, tolerance: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=tolerance, err_msg=name)


# 61 rows in batches of 16 leave 13, which two processes do not share evenly; 49 leave one, which joins the batch
# before; of 18 rows the last batch is of two, too few to be cut.
@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (61, {}),
        (49, {"batch_size": 16}),
        (18, {"batch_size": 16}),
        (61, {"batch_size": 5, "accumulate": 3, "optimizer": "sgd"}),
    ],
)
def test_two_copies_learn_what_one_process_learns(together: Together, rows: int, settings: dict[str, object]) -> None:
    alone, whole = trained_blocks(settings, rows=rows)
    (first, result), (second, _) = together(2, trained_blocks, settings, None, rows)
    _close(alone, first)
    _close(first, second, 0)
    assert result.processes == 2
    assert result.steps == whole.steps
    assert [e.loss for e in result.history] == pytest.approx([e.loss for e in whole.history], rel=1e-5)


@pytest.mark.parametrize(("compress", "share", "error"), [("fp16", 0.5, 1e-3), ("bf16", 0.5, 1e-2)])
def test_gradients_in_16_bits_are_half_the_bytes(together: Together, compress: str, share: float, error: float) -> None:
    (plain, all_of), _ = together(2, trained_blocks, {"optimizer": "sgd"})
    (small, some), _ = together(2, trained_blocks, {"optimizer": "sgd", "compress": compress})
    assert some.communication.bytes == pytest.approx(share * all_of.communication.bytes)
    _close(plain, small, error)
    assert any(not np.array_equal(plain[name], small[name]) for name in plain)


def test_powersgd_sends_less_once_gradients_are_steady_and_still_learns(together: Together) -> None:
    settings: dict[str, object] = {"epochs": 20, "optimizer": "sgd", "lr": 0.05}
    (_, all_of), _ = together(2, trained_blocks, settings)
    (_, some), _ = together(2, trained_blocks, {**settings, "compress": "powersgd"})
    assert some.communication.bytes < 0.7 * all_of.communication.bytes
    assert some.loss < 0.5 * some.history[0].loss


def test_what_is_sent_is_what_a_ring_sends(together: Together) -> None:
    (state, result), _ = together(2, trained_blocks, {})
    told = result.communication
    assert told.bytes == 4 * sum(value.size for value in state.values())  # 2(n-1)/n is 1 for two
    assert told.bandwidth == pytest.approx(told.bytes / told.seconds)
    assert told.efficiency > 0


@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (2, {"parallel": {"shard": 2}}),
        (
            2,
            {
                "parallel": {"shard": 2},
                "batch_size": 5,
                "accumulate": 3,
                "checkpoint_activations": "full",
                "optimizer": "sgd",
            },
        ),
        (4, {"parallel": {"data": 2, "shard": 2}}),
    ],
)
def test_shards_learn_what_one_process_learns(together: Together, processes: int, settings: dict[str, object]) -> None:
    alone, _ = trained_blocks({"batch_size": 16, **settings, "parallel": {}, "checkpoint_activations": "none"})
    found = together(processes, trained_blocks, settings)
    for state, _ in found:
        _close(alone, state)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_shards_learn_in_16_bits(together: Together, precision: str) -> None:
    settings: dict[str, object] = {"epochs": 10, "precision": precision, "parallel": {"shard": 2}, "lr": 1e-2}
    (state, result), _ = together(2, trained_blocks, settings)
    assert result.loss < 0.5 * result.history[0].loss
    assert all(value.dtype == np.float32 for value in state.values())
