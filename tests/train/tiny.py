"""Models and runs that several processes can be asked for by name."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headway.core.errors import StorageError
from headway.tasks import Arrays, Parts, Task
from headway.tasks.factory import build_model
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.result import TrainResult
from headway.train.world import join

State = dict[str, np.ndarray[Any, Any]]


class Block(torch.nn.Module):
    """A residual block of a perceptron, with odd sizes so that no shard is even."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.wide, self.narrow = torch.nn.Linear(width, 3 * width), torch.nn.Linear(3 * width, width)
        self.drop = torch.nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.narrow(torch.nn.functional.gelu(self.wide(self.norm(x)))))


def blocks(rows: int = 61, drop: float = 0.0) -> Task:
    """Three blocks on random rows; the last batch is seldom whole."""
    values = np.random.default_rng(0).normal(size=(rows, 7)).astype(np.float32)
    part = Arrays({"x": values}, (values.sum(axis=1) > 0).astype(np.int64))

    def model() -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(7, 13), torch.nn.Sequential(*(Block(13, drop) for _ in range(3))), torch.nn.Linear(13, 2)
        )

    return Task(parts=Parts(part, part, part, part), model=model)


def bad(row: int) -> Task:
    """The same with one row that is not a number."""
    task = blocks()
    inputs, targets = task.parts.train.batch(np.arange(61))
    inputs["x"][row] = np.nan
    return replace(task, parts=replace(task.parts, train=Arrays(inputs, targets)))


def config(**values: object) -> TrainConfig:
    base: dict[str, object] = {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu", "precision": "fp32"}
    return TrainConfig.model_validate(base | values)


def trained(task: Task, settings: TrainConfig, folder: Path | None = None) -> tuple[State, TrainResult]:
    """Weights after a run in as many processes as there are."""
    model = build_model(task)
    with join(settings) as world:
        result = fit(model, task, settings, folder=folder, world=world)
    return {name: value.numpy() for name, value in model.state_dict().items()}, result


def trained_blocks(
    settings: dict[str, object], folder: Path | None = None, rows: int = 61, drop: float = 0.0
) -> tuple[State, TrainResult]:
    """The run that most tests ask for."""
    return trained(blocks(rows, drop), config(**settings), folder)


class Halting:
    """A progress that asks one process to stop after some steps, as the machine's owner would."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.said: list[str] = []

    @contextmanager
    def work(self, title: str, total: float) -> Iterator["Halting"]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.left -= 1 if note else 0
        if self.left == 0 and os.environ.get("RANK", "1") == "1":
            signal.raise_signal(signal.SIGTERM)

    def say(self, text: str) -> None:
        self.said.append(text)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def stopped_blocks(settings: dict[str, object], folder: Path, after: int, drop: float = 0.0) -> int | None:
    """The same run, stopped by SIGTERM to one of its processes; its exit code as the command line has it."""
    return stopped(blocks(drop=drop), config(**settings), folder, after)


def stopped(task: Task, settings: TrainConfig, folder: Path, after: int) -> int | None:
    """Any run, stopped likewise."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with join(settings) as world:
            fit(build_model(task), task, settings, folder=folder, progress=Halting(after), world=world)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return None


def told_blocks(settings: dict[str, object], folder: Path) -> tuple[State, TrainResult, list[str]]:
    """The same run, and what it says."""
    told, task = Halting(-1), blocks()
    model = build_model(task)
    with join(config(**settings)) as world:
        result = fit(model, task, config(**settings), folder=folder, progress=told, world=world)
    return {name: value.numpy() for name, value in model.state_dict().items()}, result, told.said


def failing_save(settings: dict[str, object], folder: Path) -> str:
    """What a run says whose disk is full."""
    task = blocks()
    with join(config(**settings)) as world:
        try:
            fit(build_model(task), task, config(**settings), folder=folder, world=world)
        except StorageError as error:
            return str(error)
    return ""


class Killing(Halting):
    """A progress that has its process killed, by SIGKILL, some time after so many steps."""

    def __init__(self, after: int, seconds: float) -> None:
        super().__init__(after)
        self.seconds = seconds

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.left -= 1 if note else 0
        if self.left == 0 and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def killed_blocks(settings: dict[str, object], folder: Path, after: int, seconds: float) -> tuple[State, TrainResult]:
    """The run, killed unless it ends before."""
    task = blocks(drop=0.3)
    model = build_model(task)
    with join(config(**settings)) as world:
        progress = Killing(after, seconds)
        result = fit(model, task, config(**settings), folder=folder, progress=progress, world=world)
    return {name: value.numpy() for name, value in model.state_dict().items()}, result
