"""Layers that several processes share learn what whole ones learn."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.tiny import (
    State,
    refused_sentences,
    stopped_sentences,
    told_of_entangled,
    trained_mixed,
    trained_sentences,
)

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


_SGD: dict[str, object] = {"optimizer": "sgd", "lr": 0.05, "epochs": 4}  # 16 steps
_SHARED = {**_SGD, "parallel": {"tensor": 2}}
_BOTH = {**_SGD, "parallel": {"tensor": 2, "shard": 2}}


@pytest.mark.parametrize(
    ("before", "first", "after", "then"),
    [
        (2, _SHARED, 1, _SGD),
        (1, _SGD, 2, _SHARED),
        (2, {**_SHARED, "optimizer": "adamw"}, 2, {**_SGD, "optimizer": "adamw"}),
        (4, _BOTH, 2, _SHARED),
        (2, _SHARED, 4, _BOTH),
    ],
)
def test_a_stopped_run_goes_on_with_another_mix(
    together: Together, tmp_path: Path, before: int, first: dict[str, object], after: int, then: dict[str, object]
) -> None:
    def run(processes: int, work: Callable[..., Any], *arguments: Any) -> Any:
        return together(processes, work, *arguments)[0] if processes > 1 else work(*arguments)

    expected, _ = trained_sentences({**then, "parallel": {}})
    assert run(before, stopped_sentences, first, tmp_path, 6) == 130
    state, result = run(after, trained_sentences, then, tmp_path)
    assert result.resumed in (6, 7)
    if then["optimizer"] == "adamw":  # softmax takes no notice of a key's bias, so AdamW follows its rounding errors
        expected, state = ({n: v for n, v in one.items() if "key.bias" not in n} for one in (expected, state))
    _close(expected, state, 1e-4 if then["optimizer"] == "adamw" else 2e-6)


def test_what_is_not_shared_is_as_in_one_process(together: Together) -> None:
    alone, _ = trained_mixed(_SGD)
    for state, _ in together(2, trained_mixed, _SHARED):
        _close(alone, state, 1e-5)


def test_processes_of_one_copy_drop_alike(together: Together) -> None:
    settings = {**_SHARED, "epochs": 1}
    (first, _), (second, _) = together(2, trained_sentences, settings, None, 61, 0.3)
    (kept, _), _ = together(2, trained_sentences, settings, None, 61, 0.0)
    _close(first, second, 0)
    assert any(not np.array_equal(first[name], kept[name]) for name in first)


def test_shared_layers_learn_in_bf16(together: Together) -> None:
    settings: dict[str, object] = {**_SHARED, "optimizer": "adamw", "lr": 1e-2, "epochs": 9, "precision": "bf16"}
    (state, result), _ = together(2, trained_sentences, settings)
    assert result.loss < 0.5 * result.history[0].loss
    assert all(value.dtype == np.float32 for value in state.values())


def test_the_owner_names_layers(together: Together) -> None:
    plan = {"bert.encoder.layer.*.intermediate.dense": "colwise", "bert.encoder.layer.*.output.dense": "rowwise"}
    alone, _ = trained_sentences(_SGD)
    (state, _), _ = together(2, trained_sentences, {**_SGD, "parallel": {"tensor": 2, "plan": plan}})
    _close(alone, state)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"plan": {"bert.encoder.layer.0.intermediate.dense": "colwise"}}, "the model fails with its layers shared"),
        ({"plan": {"classifier": "rowwise"}}, "the model fails|computes another"),
        ({"plan": {"bert.encoder.layer.0.attention.self.*": "colwise"}}, "the model fails|computes another"),
    ],
)
def test_a_plan_that_changes_the_model_is_refused(together: Together, settings: dict[str, object], says: str) -> None:
    told = together(2, refused_sentences, {**_SGD, "parallel": {"tensor": 2, **settings}})
    assert all(re.search(says, one) for one in told), told


@pytest.mark.parametrize("parallel", [{"tensor": 2}, {"shard": 2}])
def test_a_gradient_that_is_not_finite_ends_every_process(together: Together, parallel: dict[str, int]) -> None:
    told = together(2, refused_sentences, {**_SGD, "lr": 1e6, "clip": None, "warmup": 0, "parallel": parallel})
    assert all("a gradient" in one and "is no longer finite" in one for one in told), told
    assert any("(of bert." in one for one in told), told  # each knows of its own parts alone


def test_a_pair_that_only_looks_like_one_is_refused(together: Together) -> None:
    for nothing, *told in together(2, told_of_entangled, "nothing", "softmax", "scale", "skip", "noise"):
        assert not nothing
        for one in told:
            assert "the model computes another" in one
            assert "wide, narrow are shared" in one
        assert "another gradient of scale" in told[1]
