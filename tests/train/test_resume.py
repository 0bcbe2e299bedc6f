"""A run that was interrupted, killed, or found a wrong checkpoint."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.train import checkpoint
from headway.train.config import TrainConfig
from headway.train.loop import fit

# Dropout, augmentation by torch and numpy and Python: every source of random numbers that a run may draw from.
_TASK = """
import random
import numpy as np
import torch
from headway.tasks import Task, split

def net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(0.3),
        torch.nn.Flatten(), torch.nn.Linear(144, 3))

def augment(inputs):
    noise = torch.randn(1) + np.random.normal() + random.random()
    return {"image": inputs["image"] + 0.1 * float(noise)}

def task():
    values = np.random.default_rng(0).normal(size=(400, 1, 8, 8)).astype(np.float32)
    return Task(parts=split({"image": values}, values[:, 0, 0].argmax(1) % 3), model=net, augment=augment)
"""

# Trains until step 17 of 24, in the middle of an epoch, and there waits for a line on its standard input.
_CHILD = """
import sys
from contextlib import contextmanager
from pathlib import Path
from headway.tasks.factory import build_model
from headway.tasks.loading import load_task
from headway.train.config import TrainConfig
from headway.train.loop import fit

class Halting:
    done = 0
    @contextmanager
    def work(self, title, total):
        yield self
    def advance(self, amount=1, note=""):
        self.done += amount
        if self.done == 17:
            print("halted", flush=True)
            sys.stdin.readline()
    def say(self, text):
        pass

folder = Path(sys.argv[1])
task = load_task("task.py:task", {}, folder)
config = TrainConfig.model_validate_json(sys.argv[2])
fit(build_model(task, 1), task, config, folder=folder / "checkpoints", progress=Halting())
"""


def _config(**values: object) -> TrainConfig:
    base: dict[str, object] = {"epochs": 3, "batch_size": 32, "threads": 1, "device": "cpu", "seed": 7, "lr": 0.01}
    return TrainConfig.model_validate(base | values)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path, told: Any, number: signal.Signals, precision: str
) -> None:
    from headway.tasks.loading import load_task

    (tmp_path / "task.py").write_text(_TASK)
    task = load_task("task.py:task", {}, tmp_path)
    # A killed run has only what it saved before: here every step.
    often = _config(precision=precision, checkpoint_seconds=1e-9 if number == signal.SIGKILL else 1e9)

    undisturbed = build_model(task, 1)
    whole = fit(undisturbed, task, often)

    command = [sys.executable, "-c", _CHILD, str(tmp_path), often.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"halted\n"
        child.send_signal(number)
        child.communicate(b"go on\n")
    assert child.returncode != 0

    resumed = build_model(task, 1)
    result = fit(resumed, task, often, folder=tmp_path / "checkpoints", progress=told)
    assert result.resumed == (16 if number == signal.SIGKILL else 17)
    assert told.said == [f"going on from step {result.resumed} of 24"]
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert [epoch.loss for epoch in result.history] == [epoch.loss for epoch in whole.history]


def _fit(task: Task, folder: Path, told: Any, config: TrainConfig | None = None) -> torch.nn.Module:
    model = build_model(task)
    fit(model, task, config or _config(epochs=0.3), folder=folder, progress=told)
    return model


def test_a_finished_run_returns_at_once(task: Task, told: Any, tmp_path: Path) -> None:
    first = _fit(task, tmp_path, told)
    told.notes.clear()
    again = _fit(task, tmp_path, told)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in first.state_dict().items())
    assert told.notes == [""]  # the bar is filled, and no step is taken


@pytest.mark.parametrize("change", [{"lr": 0.02}, {"seed": 8}, {"epochs": 0.4}, {"precision": "fp16"}])
def test_another_runs_checkpoint_is_passed_over(
    task: Task, told: Any, tmp_path: Path, change: dict[str, object]
) -> None:
    _fit(task, tmp_path, told)
    expected = _fit(task, tmp_path / "fresh", told, _config(**{"epochs": 0.3} | change))
    told.said.clear()
    model = _fit(task, tmp_path, told, _config(**{"epochs": 0.3} | change))
    assert "of another run; training begins afresh" in told.said[0]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.state_dict().items())


def test_other_data_or_starting_weights_are_another_run(task: Task, told: Any, tmp_path: Path) -> None:
    from headway.tasks.images import digits

    _fit(task, tmp_path, told)
    _fit(digits(width=4, seed=1), tmp_path, told)
    model = build_model(digits(width=4, seed=1), seed=9)
    fit(model, digits(width=4, seed=1), _config(epochs=0.3), folder=tmp_path, progress=told)
    assert len(told.said) == 2
    assert all("of another run" in text for text in told.said)


def test_threads_and_checkpoint_interval_may_change(task: Task, told: Any, tmp_path: Path) -> None:
    _fit(task, tmp_path, told)
    _fit(task, tmp_path, told, _config(epochs=0.3, threads=2, checkpoint_seconds=5))
    assert "going on from step" in told.said[-1]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "something else"])
def test_a_damaged_checkpoint_is_passed_over(task: Task, told: Any, tmp_path: Path, damage: str) -> None:
    expected = _fit(task, tmp_path, told)
    file = tmp_path / checkpoint.NAME
    content = bytearray(file.read_bytes())
    if damage == "one bit":
        content[-5] ^= 1
    file.write_bytes({"truncated": content[:-50], "empty": b"", "something else": b"\x80\x04}."}.get(damage, content))
    told.said.clear()
    model = _fit(task, tmp_path, told)
    assert "damaged checkpoint" in told.said[0]
    assert str(file) in told.said[0]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.state_dict().items())


def test_what_a_killed_write_left_is_cleared(task: Task, told: Any, tmp_path: Path) -> None:
    litter = tmp_path / f".{checkpoint.NAME}.abc"
    litter.write_bytes(b"half")
    _fit(task, tmp_path, told)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]
