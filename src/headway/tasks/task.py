"""The user's side of a recipe: a model factory, data in four parts, and a metric."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.core.tensors import Array
from headway.tasks.parts import Parts

if TYPE_CHECKING:
    import torch

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A score a row, whose mean is the metric: what makes paired statistics possible.

    Attributes:
        name: as reports show it.
        rows: (outputs by name, targets) -> float64 scores, [N]; finite, not below 0, and greater is better, for what
            is asked is the share of the original's mean that is kept. A loss can be given as 1 / (1 + loss).
        binary: promises that every score is 0 or 1; other scores are then refused.
    """

    name: str
    rows: Callable[[Mapping[str, Array], Array], Rows]
    binary: bool


def _right(outputs: Mapping[str, Array], targets: Array) -> Rows:
    logits = next(iter(outputs.values()))  # [N, classes]
    return np.asarray(logits.argmax(axis=1) == targets, dtype=np.float64)


ACCURACY = Metric("accuracy", _right, binary=True)


@dataclass(frozen=True)
class Task:
    """What a recipe's `task` names.

    Attributes:
        parts: the data.
        model: makes the untrained module; None where the recipe brings an ONNX file.
        metric: what may not be lost.
        loss: (outputs by name, targets) -> scalar; None is cross-entropy of the first output.
        augment: changes a training batch's inputs on the fly; drawn from torch's random numbers.
        labels: the name of each class.
        output_names: what the module's outputs are called, in order; none is also an input's name.
        varying: the dimensions after the first that vary from batch to batch, by input, each with a name: those of one
            name are equally long. A part pads a batch's rows to the longest of them, and a row alone not at all.
        padding: what fills up a shorter row, by input, where that changes no answer; requests of different lengths
            then share a run. It is tried before a bundle says so.
    """

    parts: Parts
    model: "Callable[[], torch.nn.Module] | None" = None
    metric: Metric = ACCURACY
    loss: "Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor] | None" = None
    augment: "Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None" = None
    labels: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ("logits",)
    varying: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    padding: Mapping[str, float] = field(default_factory=dict)


TaskFactory = Callable[..., Task]
Arguments = dict[str, Any]
