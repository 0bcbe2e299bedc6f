"""A small trained network on real digits, and the context that steps work in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headway.compress.step import StepContext
from headway.core.machine import here
from headway.core.progress import SILENT
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.tasks import Task
from headway.tasks.images import digits
from headway.train.config import TrainConfig
from headway.train.loop import fit

TRAIN = TrainConfig(epochs=6, batch_size=64, threads=1, device="cpu", precision="fp32")


@pytest.fixture(scope="session", autouse=True)
def _libraries_have_settled() -> None:
    """scikit-learn and torch's optimizers set environment variables when they are first used; that is not a leak."""
    digits()
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def task() -> Task:
    """Digits, with a CNN of 72,000 parameters."""
    return digits(width=16)


@pytest.fixture(scope="session")
def weights(task: Task) -> dict[str, torch.Tensor]:
    """Of that CNN, trained."""
    assert task.model is not None
    torch.manual_seed(0)
    model = task.model()
    fit(model, task, TRAIN)
    return model.state_dict()


@pytest.fixture
def trained(task: Task, weights: dict[str, torch.Tensor]) -> nn.Module:
    """A fresh copy of the trained CNN."""
    assert task.model is not None
    model = task.model()
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture
def context(task: Task, tmp_path: Path) -> StepContext:
    """Where a step works."""
    return StepContext(task, TRAIN, here(), tmp_path / "work", SILENT)


@pytest.fixture
def accuracy(task: Task) -> Callable[[Path], float]:
    """Of an ONNX file in ONNX Runtime, on test data."""

    def measure(file: Path) -> float:
        session = OnnxRuntime().load(file)
        inputs, targets = task.parts.test.batch(np.arange(len(task.parts.test)))
        outputs = session.run(inputs)
        session.close()
        return float(task.metric.rows(outputs, targets).mean())

    return measure
