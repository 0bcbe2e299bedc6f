"""Parts that draw, raise or die in `batch`, at the top of a module so that any process finds them."""

import os
import random
import resource
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tests.train.tiny import State, blocks, config, stopped, trained

from headway.tasks import Task
from headway.tasks.parts import Indices, Inputs, Part


class Reading:
    """The rows of another part, as `how` reads them.

    Args:
        how: "draws" adds noise from Python's and numpy's random numbers; "raises" and "dies" do so at row 40; "dies"
            and "finds shared memory full" are for worker processes alone; "slow" takes 20 ms; "reads" only reads.
    """

    costly = True

    def __init__(self, part: Part, how: str) -> None:
        self.part, self.how = part, how
        self.seconds: list[float] = []  # of each slow batch

    def __len__(self) -> int:
        return len(self.part)

    def digest(self) -> str:
        return self.part.digest()

    def batch(self, rows: Indices) -> tuple[Inputs, Any]:
        inputs, targets = self.part.batch(rows)
        beside = torch.utils.data.get_worker_info() is not None
        match self.how:
            case "draws":
                inputs["x"] = inputs["x"] + np.float32(0.1 * (np.random.normal() + random.random()))
            case "slow":
                began = time.monotonic()
                while time.monotonic() < began + 0.02:
                    pass
                self.seconds.append(time.monotonic() - began)
            case "raises" if 40 in rows:
                raise OSError("the file of row 40 is damaged")
            case "dies" if beside and 40 in rows:
                os.kill(os.getpid(), signal.SIGKILL)
            case "finds shared memory full" if beside:
                resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        return inputs, targets


def noisy(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Noise from torch's random numbers."""
    return {"x": inputs["x"] + 0.1 * torch.randn(inputs["x"].shape)}


def reading(how: str) -> Task:
    """`blocks` with such a training part; where it draws, so do the augmentation and the model."""
    task = blocks(drop=0.3 if how == "draws" else 0.0)
    parts = replace(task.parts, train=Reading(task.parts.train, how))
    return replace(task, parts=parts, augment=noisy if how == "draws" else None)


def loader(workers: int, start: str = "forkserver") -> dict[str, object]:
    """Settings that ask for such workers."""
    return {"loader": {"workers": workers, "start": start}}


def trained_reading(settings: dict[str, object], how: str = "draws", folder: Any = None) -> tuple[State, Any]:
    """A run on such a part."""
    return trained(reading(how), config(**settings), folder)


def stopped_reading(settings: dict[str, object], folder: Any, after: int, how: str = "draws") -> int | None:
    """The same run, stopped by SIGTERM to one of its processes."""
    return stopped(reading(how), config(**settings), folder, after)


def failed(settings: dict[str, object], how: str) -> tuple[str, str]:
    """What such a run says that fails."""
    from headway.core.errors import HeadwayError

    try:
        trained_reading(settings, how)
    except HeadwayError as error:
        return type(error).__name__, str(error)
    return "", ""
