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

from headway.core.errors import ConfigError, StorageError, TaskError
from headway.tasks import Arrays, Parts, Task
from headway.tasks.encoder import Classifier, Encoder
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


def sentences(rows: int = 61, drop: float = 0.0) -> Task:
    """Our own encoder, two layers of four heads and odd widths within, on random words of which some are padding."""
    draw = np.random.default_rng(0)
    words = draw.integers(1, 50, (rows, 9))
    lengths = draw.integers(2, 10, (rows, 1))
    inputs = {"input_ids": words, "attention_mask": (np.arange(9) < lengths).astype(np.int64)}
    part = Arrays(inputs, words[:, 0] % 3)

    def model() -> torch.nn.Module:
        net = Classifier(Encoder(50, 12, 2, 4, 16, 26), 16, 3)
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = drop
        return net

    return Task(parts=Parts(part, part, part, part), model=model)


class Mixed(torch.nn.Module):
    """What is not shared, around a feed-forward network that is: torch's own attention, batch norm, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = torch.nn.Linear(7, 12), torch.nn.BatchNorm1d(12)
        self.middle = torch.nn.TransformerEncoderLayer(12, 2, 26, dropout=0.0, batch_first=True)
        self.drop, self.last = torch.nn.Dropout(0.3), torch.nn.Linear(12, 12)
        self.tied = torch.nn.Linear(7, 12)
        self.tied.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = self.middle(self.norm(self.first(x))[:, None])[:, 0]  # sequences of one
        return self.last(self.drop(middle)) + self.tied(x)  # type: ignore[no-any-return]


def trained_mixed(settings: dict[str, object]) -> tuple[State, TrainResult]:
    """A run that draws random numbers for its inputs and outside shared layers."""
    noise = lambda inputs: {"x": inputs["x"] + 0.1 * torch.randn(inputs["x"].shape)}  # noqa: E731
    return trained(replace(blocks(), model=Mixed, augment=noise), config(**settings))


def trained_sentences(
    settings: dict[str, object], folder: Path | None = None, rows: int = 61, drop: float = 0.0
) -> tuple[State, TrainResult]:
    """The run that tests of shared layers ask for."""
    return trained(sentences(rows, drop), config(**settings), folder)


def stopped_sentences(settings: dict[str, object], folder: Path, after: int) -> int | None:
    """The same run, stopped by SIGTERM to one of its processes."""
    return stopped(sentences(), config(**settings), folder, after)


def refused_sentences(settings: dict[str, object]) -> str:
    """What a run says that is refused, or breaks."""
    try:
        trained_sentences(settings)
    except (ConfigError, TaskError) as error:
        return str(error)
    return ""


class Entangled(torch.nn.Module):
    """A pair of layers by its looks, with something between them that needs all of a row."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.scale = how, torch.nn.Parameter(torch.tensor(0.9))
        self.wide, self.narrow = torch.nn.Linear(7, 12), torch.nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.wide(x)
        match self.how:
            case "softmax":
                wide = torch.softmax(wide, 1)
            case "scale":  # of which each process sees a part of the gradient
                wide = wide * self.scale
            case "noise":
                wide = torch.nn.functional.dropout(wide, training=True)
        out = self.narrow(wide)
        return out * wide.mean(1, keepdim=True) if self.how == "skip" else out  # type: ignore[no-any-return]


def told_of_entangled(*kinds: str) -> list[str]:
    """What a run of each says; nothing where it goes through."""
    said, settings = [], config(parallel={"tensor": 2}, epochs=0.5)
    with join(settings) as world:
        for how in kinds:
            model = Entangled(how)
            try:
                fit(model, blocks(), settings, world=world)
            except ConfigError as error:
                said.append(str(error))
            else:
                said.append("")
    return said


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
