"""Groups of channels that can only go together, and which of them go.

A channel is not one layer's alone: what a convolution no longer puts out, its norm, the layers that read it and those
whose outputs are added to it must drop as well. torch-pruning's dependency graph finds these groups (Fang et al. 2023,
"DepGraph: Towards Any Structural Pruning").
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headway.compress.slices import Axis, Place, Side, axes, cut, groups, is_depthwise, width
from headway.core.errors import TaskError
from headway.export.quiet import quiet

Indices = NDArray[np.int64]
Forward = Callable[[nn.Module], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Member:
    """A side of a layer that a group goes through.

    Attributes:
        place: the side.
        positions: channels of that side, [M].
        roots: the group's channel that each position belongs to, [M]; some may share one (a flattened map).
    """

    place: Place
    positions: Indices
    roots: Indices


@dataclass(frozen=True)
class Group:
    """Channels that go together.

    Attributes:
        name: the layer whose outputs they are.
        channels: how many.
        fold: the channels fall into so many equal parts that must lose the same channels.
        members: every side they go through.
    """

    name: str
    channels: int
    fold: int
    members: tuple[Member, ...]


def find_groups(model: nn.Module, forward: Forward) -> list[Group]:
    """Every group of channels whose loss leaves the model's outputs in the shape they have.

    A group is tried before it is offered: one channel is cut from a copy, which must still run. So layers that feed the
    outputs, and those whose widths are written into the model's code, are left alone.

    Args:
        model: in evaluation mode.
        forward: runs a module on an example and returns its outputs.

    Raises:
        TaskError: the model cannot be traced, or none of its layers can be pruned.
    """
    with torch.no_grad():
        shapes = [output.shape for output in forward(model)]
    found = [group for group in _traced(model, forward) if _holds(model, group, forward, shapes)]
    if not found:
        raise TaskError(
            "no layer of the model can be pruned",
            remedy="Only channels of convolutions and linear layers that other layers read can go. Leave the step out.",
        )
    return found


def _traced(model: nn.Module, forward: Forward) -> Iterator[Group]:
    from torch_pruning import DependencyGraph

    names = {id(module): name for name, module in model.named_modules()}
    tied = _tied(model)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)  # the graph is read off autograd's
        with quiet(), torch.enable_grad():
            graph = DependencyGraph().build_dependency(
                model, None, forward_fn=lambda module, _: forward(module), verbose=False
            )
            traced = list(graph.get_all_groups())
    except (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise TaskError(
            f"the model cannot be traced for pruning: {type(error).__name__}: {error}",
            remedy="Leave the prune step out, or make forward return tensors that need gradients.",
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    for items in traced:
        group = _group(items, graph, names)
        if group is not None and not tied & {member.place.name for member in group.members}:
            yield group


def _group(items: object, graph: object, names: Mapping[int, str]) -> Group | None:
    """Our form of torch-pruning's group; None where it goes through a layer that cannot be cut."""
    members, fold = [], 1
    for item in items:  # type: ignore[attr-defined]
        node = item.dep.target
        positions, roots = np.asarray(item.idxs), np.asarray(item.root_idxs)
        if isinstance(node.module, nn.Parameter):
            return None
        if id(node.module) not in names:
            continue  # an operation without weights
        side = _side(node.module, item.dep.handler, graph)
        if axes(node.module, side) is None:
            return None
        fold = math.lcm(fold, groups(node.module))
        members.append(Member(Place(names[id(node.module)], side), positions, roots))
    root = items[0]  # type: ignore[index]
    channels = len(root.idxs)
    return Group(names[id(root.dep.target.module)], channels, fold, tuple(members)) if channels % fold == 0 else None


def _side(module: nn.Module, handler: object, graph: object) -> Side:
    if not isinstance(module, nn.Linear) and (is_depthwise(module) or not hasattr(module, "transposed")):
        return "both"
    return "out" if graph.is_out_channel_pruning_fn(handler) else "in"  # type: ignore[attr-defined]


def _tied(model: nn.Module) -> set[str]:
    """Layers that share a parameter with another one: a cut would untie them."""
    owners = [
        (name, id(parameter))
        for name, module in model.named_modules()
        for parameter in module.parameters(recurse=False)
    ]
    times = Counter(identity for _, identity in owners)
    return {name for name, identity in owners if times[identity] > 1}


def _holds(model: nn.Module, group: Group, forward: Forward, shapes: list[torch.Size]) -> bool:
    if group.channels == group.fold:
        return False
    trial = copy.deepcopy(model)
    try:
        remove(trial, group, np.arange(0, group.channels, group.channels // group.fold))
        with torch.no_grad():
            return [output.shape for output in forward(trial)] == shapes
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, TaskError):
        return False


def remove(model: nn.Module, group: Group, channels: Indices) -> dict[Place, list[int]]:
    """Cut `channels` of a group out of the model, in place.

    Returns:
        What each side kept, numbered as before the cut.
    """
    kept = {}
    for member in group.members:
        gone = set(member.positions[np.isin(member.roots, channels)].tolist())
        kept[member.place] = [channel for channel in range(_width(model, member.place)) if channel not in gone]
        cut(model, member.place, kept[member.place])
    return kept


def _width(model: nn.Module, place: Place) -> int:
    return width(model.get_submodule(place.name), place.side)


class Budget:
    """How many parameters a model would have if groups were narrower, counted without cutting it."""

    def __init__(self, model: nn.Module, found: list[Group]) -> None:
        self._total = sum(parameter.numel() for parameter in model.parameters())
        self._sizes: dict[Place, int] = {}
        self._shapes: dict[tuple[str, str], list[int]] = {}
        self._scaled: dict[tuple[str, str], dict[int, tuple[Place, Axis]]] = {}
        self._at: dict[Place, list[tuple[str, str]]] = {}
        for place in dict.fromkeys(member.place for group in found for member in group.members):
            module = model.get_submodule(place.name)
            self._sizes[place] = _width(model, place)
            for axis in axes(module, place.side) or ():
                tensor = getattr(module, axis.tensor)
                if isinstance(tensor, nn.Parameter):
                    key = (place.name, axis.tensor)
                    self._shapes[key] = list(tensor.shape)
                    self._scaled.setdefault(key, {})[axis.dim] = (place, axis)
                    self._at.setdefault(place, []).append(key)

    @property
    def total(self) -> int:
        """Parameters of the whole model."""
        return self._total

    def cost(self, group: Group, channels: int) -> int:
        """Parameters that go with so many of the group's channels."""
        before = dict(self._sizes)
        freed = self.spend(group, channels)
        self._sizes, self._total = before, self._total + freed
        return freed

    def spend(self, group: Group, channels: int) -> int:
        """Take so many channels off the group; returns the parameters that went."""
        touched = {key for member in group.members for key in self._at.get(member.place, ())}
        before = sum(map(self._count, touched))
        for member in group.members:
            self._sizes[member.place] -= len(member.positions) * channels // group.channels
        freed = before - sum(map(self._count, touched))
        self._total -= freed
        return freed

    def _count(self, key: tuple[str, str]) -> int:
        shape = list(self._shapes[key])
        for dim, (place, axis) in self._scaled[key].items():
            shape[dim] = self._sizes[place] // axis.share
        return math.prod(shape)
