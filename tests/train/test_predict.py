"""Predictions over a whole part."""

import numpy as np
import pytest
import torch

from headway.core.errors import DataError, TaskError
from headway.tasks import Arrays, Task
from headway.tasks.factory import build_model
from headway.train.predict import predict, score


def test_every_row_is_answered_in_order(task: Task) -> None:
    model = build_model(task).train()
    outputs, targets = predict(model, task.parts.selection, task.output_names, batch_size=32)
    assert model.training
    inputs, expected = task.parts.selection.batch(np.arange(len(task.parts.selection)))
    with torch.inference_mode():
        whole = model.eval()(torch.from_numpy(inputs["image"])).numpy()
    np.testing.assert_allclose(outputs["logits"], whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(targets, expected)
    assert score(model, task, task.parts.selection) == np.mean(whole.argmax(1) == expected)


def test_low_precision_outputs_come_as_float32() -> None:
    part = Arrays(np.ones((3, 2), np.float32), np.zeros(3, np.int64))
    outputs, _ = predict(torch.nn.Sequential(torch.nn.Linear(2, 2), _Halve()), part, ("y",))
    assert outputs["y"].dtype == np.float32


class _Halve(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16()


def test_an_empty_part_and_missing_outputs_are_refused(task: Task) -> None:
    empty = Arrays(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="empty"):
        predict(torch.nn.Linear(2, 2), empty, ("y",))
    with pytest.raises(TaskError, match="returns 1 outputs where the task names 2"):
        predict(build_model(task), task.parts.selection, ("a", "b"))
