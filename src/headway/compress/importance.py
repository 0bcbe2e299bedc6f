"""How much a channel matters: a score for each channel of each group."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from headway.compress.channels import Group, Indices, Member
from headway.compress.slices import axes
from headway.core.modules import forward
from headway.core.progress import SILENT, Progress
from headway.tasks import Task

Scores = NDArray[np.float64]
_ROWS, _BATCH = 512, 32  # of the part that is looked at


def l1(model: nn.Module, found: Sequence[Group]) -> list[Scores]:
    """Sum of the weights' magnitudes (Li et al. 2017, "Pruning Filters for Efficient ConvNets").

    Each tensor that a group goes through is divided by its mean and has the same say, so that a group's scores have
    mean 1 and layers of other sizes compare.
    """
    scores = []
    for group in found:
        parts = [
            _spread(group, member, values)
            for member in group.members
            for values in _tensors(model, member, lambda tensor: tensor.detach().abs())
        ]
        parts = [part / max(part.mean(), 1e-30) for part in parts]
        scores.append(np.mean(parts, axis=0) if parts else np.ones(group.channels))
    return scores


def variance(
    model: nn.Module,
    found: Sequence[Group],
    task: Task,
    seed: int,
    progress: Progress = SILENT,
    title: str = "importance",
) -> list[Scores]:
    """How much a channel's activation varies over the calibration part: what hardly changes says little, and the layers
    that read it, or their batch norm, can learn it as a constant (after Molchanov et al. 2017, "Pruning Convolutional
    Neural Networks for Resource Efficient Inference", section 2.2, which compares criteria of activations).

    The activation is what the layers that read a channel are given. Each reader's variances are divided by their mean
    and have the same say, so that a group's scores have mean 1 and layers of other scales compare.
    """
    part = task.parts.calibration
    rows = np.random.default_rng(seed).permutation(len(part))[:_ROWS]
    batches = np.array_split(rows, max(1, len(rows) // _BATCH))
    readers = {member.place.name for group in found for member in _readers(group)}
    seen = {name: _Moments() for name in readers}
    hooks = [model.get_submodule(name).register_forward_pre_hook(seen[name].add) for name in readers]
    device = next(model.parameters()).device
    try:
        with progress.work(title, len(batches)) as bar, torch.no_grad():
            for chosen in batches:
                inputs, _ = part.batch(np.sort(chosen))
                forward(model.eval(), {n: torch.from_numpy(v).to(device) for n, v in inputs.items()}, task.output_names)
                bar.advance(1)
    finally:
        for hook in hooks:
            hook.remove()
    scores = []
    for group in found:
        parts = [_spread(group, member, seen[member.place.name].variance()) for member in _readers(group)]
        parts = [part / max(part.mean(), 1e-30) for part in parts]
        scores.append(np.mean(parts, axis=0) if parts else np.ones(group.channels))
    return scores


class _Moments:
    """Sums over everything that a layer is given, for each channel, float64."""

    def __init__(self) -> None:
        self._rows, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A hook before the layer's forward."""
        dim = -1 if isinstance(module, nn.Linear) else 1
        values = inputs[0].detach().double().movedim(dim, 0).flatten(1)  # [channels, rows]
        self._rows += values.shape[1]
        self._sum = self._sum + values.sum(1).cpu()
        self._squares = self._squares + values.square().sum(1).cpu()

    def variance(self) -> torch.Tensor:
        """Of each channel, [channels]."""
        rows = max(1, self._rows)
        return (self._squares / rows - (self._sum / rows).square()).clamp_min(0)


def taylor(
    model: nn.Module,
    found: Sequence[Group],
    task: Task,
    seed: int,
    progress: Progress = SILENT,
    title: str = "importance",
) -> list[Scores]:
    """How much the loss would change, to first order (Molchanov et al. 2019, "Importance Estimation").

    A channel is what its readers make of it: the sum of weight times gradient over every layer that reads it, which is
    the activation times its gradient. Magnitudes of that are averaged over batches of the training part, so that
    gradients of other signs do not cancel out. Scores are changes of the loss, and compare between groups as they are.
    """
    part = task.parts.train
    rows = np.random.default_rng(seed).permutation(len(part))[:_ROWS]
    device = next(model.parameters()).device
    scores = [np.zeros(group.channels) for group in found]
    batches = np.array_split(rows, max(1, len(rows) // _BATCH))
    with progress.work(title, len(batches)) as bar:
        for chosen in batches:
            _backward(model.eval(), task, np.sort(chosen), device)
            for total, group in zip(scores, found, strict=True):
                total += np.abs(_change(model, group)) / len(batches)
            bar.advance(1)
    model.zero_grad(set_to_none=True)
    return scores


def _backward(model: nn.Module, task: Task, rows: Indices, device: torch.device) -> None:
    """Leave the loss's gradients of some training rows in the parameters."""
    inputs, targets = task.parts.train.batch(rows)
    tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
    model.zero_grad(set_to_none=True)
    outputs = forward(model, tensors, task.output_names)
    wanted = torch.from_numpy(targets).to(device)
    loss = task.loss(outputs, wanted) if task.loss else functional.cross_entropy(_first(outputs), wanted.long())
    loss.backward()  # type: ignore[no-untyped-call]


def _change(model: nn.Module, group: Group) -> Scores:
    """Weight times gradient, summed over a group's readers; over its writers where nothing reads it."""
    total = np.zeros(group.channels)
    for member in _readers(group) or group.members:
        for values in _tensors(model, member, _weight_times_gradient):
            total += _spread(group, member, values)
    return total


def _readers(group: Group) -> list[Member]:
    return [member for member in group.members if member.place.side == "in"]


def _weight_times_gradient(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.detach() * tensor.grad


def _tensors(model: nn.Module, member: Member, value: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """`value` of each parameter that a member goes through, summed for each channel of its side: float64, [width]."""
    module = model.get_submodule(member.place.name)
    found = []
    for axis in axes(module, member.place.side) or ():
        tensor = getattr(module, axis.tensor)
        if isinstance(tensor, nn.Parameter) and axis.tensor == "weight":
            summed = value(tensor).double().movedim(axis.dim, 0).flatten(1 if tensor.dim() > 1 else 0)
            found.append((summed.sum(1) if tensor.dim() > 1 else summed).repeat(axis.share).cpu())
    return found


def _spread(group: Group, member: Member, values: torch.Tensor) -> Scores:
    """A side's values added up for each channel of the group."""
    total = np.zeros(group.channels)
    np.add.at(total, member.roots, values.numpy()[member.positions])
    return total


def _first(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(iter(outputs.values()))
