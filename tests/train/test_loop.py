"""Training on real digits: it learns, it repeats, and it says what went wrong."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headway.core.errors import DataError, TaskError
from headway.tasks import Arrays, Parts, Task, split
from headway.tasks.factory import build_model
from headway.tasks.images import digits
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.predict import score


def _config(**values: object) -> TrainConfig:
    base: dict[str, object] = {"epochs": 1, "batch_size": 64, "threads": 1, "device": "cpu", "precision": "fp32"}
    return TrainConfig.model_validate(base | values)


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _linear_task(rows: int, **changes: object) -> Task:
    """A linear layer on random rows: no batch norm, so gradients add up exactly as the rows do."""
    values = np.random.default_rng(0).normal(size=(rows, 6)).astype(np.float32)
    part = Arrays({"x": values}, (values.sum(axis=1) > 0).astype(np.int64))
    task = Task(parts=Parts(part, part, part, part), model=lambda: torch.nn.Linear(6, 2))
    return replace(task, **changes)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_learns_digits_in_every_precision(precision: str) -> None:
    task = digits(width=8)
    model = build_model(task)
    result = fit(model, task, _config(epochs=4, batch_size=32, precision=precision, lr=1e-2))
    assert score(model, task, task.parts.test) > 0.93
    assert result.precision == precision
    assert not model.training
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("augment", "says"),
    [
        (lambda inputs: None, "augment must return a dict of tensors; got NoneType"),
        (lambda inputs: {"x": 1}, "augment must return tensors; 'x' is int"),
        (lambda inputs: {"x": 1 / 0}, "augment raised ZeroDivisionError"),
    ],
)
def test_an_augment_that_is_wrong_is_named_with_its_place(augment: Any, says: str) -> None:
    task = _linear_task(64, augment=augment)
    with pytest.raises(TaskError, match=says) as caught:
        fit(build_model(task), task, _config())
    assert "test_loop.py:" in str(caught.value.where)


def test_the_result_says_what_was_done(task: Task) -> None:
    result = fit(build_model(task), task, _config(epochs=1.5))
    assert (result.epochs, result.resumed, result.device) == (1.5, 0, "cpu")
    assert result.steps == 18  # 12 an epoch of 719 rows
    assert [epoch.epochs for epoch in result.history] == [1, 1.5]
    assert result.history[1].loss < result.history[0].loss
    assert result.loss == result.history[-1].loss
    assert result.seconds == pytest.approx(sum(epoch.seconds for epoch in result.history))
    assert result.document()["history"][0]["epochs"] == 1


def test_the_same_seed_gives_the_same_bits(task: Task) -> None:
    models = [build_model(task, seed=3) for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        random.random(), np.random.random(), torch.rand(1)
        fit(model, task, _config(epochs=0.5, seed=seed))
    first, second, other = (_weights(model) for model in models)
    assert _equal(first, second)
    assert not _equal(first, other)


def test_the_callers_random_numbers_and_threads_stay(task: Task) -> None:
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    threads = torch.get_num_threads()
    fit(build_model(task), task, _config(epochs=0.1, threads=2))
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("rows", [64, 61, 50, 37])
def test_accumulation_gives_the_gradients_of_one_large_batch(rows: int) -> None:
    task = _linear_task(rows)
    large, small = build_model(task), build_model(task)
    fit(large, task, _config(batch_size=32, optimizer="sgd", clip=None))
    fit(small, task, _config(batch_size=8, accumulate=4, optimizer="sgd", clip=None))
    for name, value in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_first_step() -> None:
    task = _linear_task(32)
    model = build_model(task)
    before = _weights(model)
    fit(model, task, _config(batch_size=32, optimizer="sgd", clip=1e-3, lr=1, weight_decay=0, warmup=0))
    moved = sum((model.state_dict()[name] - value).square().sum() for name, value in before.items()) ** 0.5
    assert moved == pytest.approx(1.9e-3, rel=1e-3)  # Nesterov's first step is 1 + 0.9 gradients


def test_biases_and_norms_do_not_decay() -> None:
    task = _linear_task(32, loss=lambda outputs, targets: outputs["logits"].sum() * 0)
    model = build_model(task)
    before = _weights(model)
    fit(model, task, _config(weight_decay=0.5, lr=0.1, warmup=0))
    assert torch.equal(model.state_dict()["bias"], before["bias"])
    assert model.state_dict()["weight"].norm() < before["weight"].norm()


def test_frozen_parameters_are_left_alone(task: Task) -> None:
    model = build_model(task)
    for parameter in model.features.parameters():  # type: ignore[union-attr]
        parameter.requires_grad_(False)
    before = _weights(model)
    fit(model, task, _config(epochs=0.2))
    assert torch.equal(model.state_dict()["features.0.conv.weight"], before["features.0.conv.weight"])
    assert not torch.equal(model.state_dict()["classifier.weight"], before["classifier.weight"])


def test_a_last_batch_of_one_row_does_not_break_batch_norm(task: Task) -> None:
    inputs, targets = task.parts.train.batch(np.arange(33))
    fit(
        build_model(task),
        replace(task, parts=replace(task.parts, train=Arrays(inputs, targets))),
        _config(batch_size=32),
    )


def test_the_bar_moves_through_every_step(task: Task, told: Any) -> None:
    result = fit(build_model(task), task, _config(), progress=told, title="fine-tune")
    assert told.titles == [("fine-tune", result.steps)]
    assert told.moved == result.steps
    assert "loss" in told.notes[-1]
    assert "rows/s" in told.notes[-1]


def test_nan_in_the_data_is_named(task: Task) -> None:
    inputs, targets = task.parts.train.batch(np.arange(100))
    inputs["image"][42, 0, 3, 3] = np.nan
    spoilt = replace(task, augment=None, parts=replace(task.parts, train=Arrays(inputs, targets)))
    with pytest.raises(DataError, match=r"input 'image' of training row 42 is not finite") as caught:
        fit(build_model(task), spoilt, _config())
    assert caught.value.where is not None
    assert "epoch 1" in caught.value.where


def test_a_run_that_diverges_says_where_and_what_to_try() -> None:
    task = _linear_task(64, loss=lambda outputs, targets: outputs["logits"].square().mean() * 1e4)
    with pytest.raises(TaskError, match="no longer finite") as caught:
        fit(build_model(task), task, _config(epochs=50, lr=1e3, optimizer="sgd", clip=None, batch_size=8))
    assert caught.value.where is not None
    assert caught.value.where.startswith("step ")
    assert caught.value.remedy is not None
    assert "train.lr (now 1000)" in caught.value.remedy
    assert "train.clip" in caught.value.remedy


def test_fp16_skips_steps_whose_gradients_overflow() -> None:
    task = _linear_task(64, loss=lambda outputs, targets: outputs["logits"].float().square().mean() * 100)
    model = build_model(task)
    fit(model, task, _config(epochs=8, precision="fp16", batch_size=16))
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_what_the_users_augmentation_raises_is_placed_in_their_file(task: Task) -> None:
    def augment(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise ValueError("no such picture")

    with pytest.raises(TaskError, match="augment raised ValueError: no such picture") as caught:
        fit(build_model(task), replace(task, augment=augment), _config())
    assert caught.value.where is not None
    assert caught.value.where.startswith(__file__)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    task = _linear_task(16, loss=lambda outputs, targets: outputs["logits"])
    with pytest.raises(TaskError, match=r"the loss must be a tensor without dimensions.*got \(16, 2\)"):
        fit(build_model(task), task, _config())


def test_an_empty_part_and_a_model_without_parameters_are_refused(task: Task) -> None:
    empty = split(np.zeros((4, 2), np.float32), np.zeros(4, np.int64), fractions=(0.01, 0.33, 0.33, 0.33))
    with pytest.raises(DataError, match="training part is empty"):
        fit(build_model(task), replace(task, parts=empty), _config())
    with pytest.raises(TaskError, match="no parameter to train"):
        fit(torch.nn.Identity(), task, _config())


def test_weights_come_back_in_the_ordinary_layout(task: Task) -> None:
    model = build_model(task)
    fit(model, task, _config(epochs=0.1))
    assert all(value.is_contiguous() for value in model.state_dict().values())
