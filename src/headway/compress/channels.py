"""Groups of channels that can only go together: cutting them out, and counting what goes with them.

A channel is not one layer's alone: what a convolution no longer puts out, its norm, the layers that read it and those
whose outputs are added to it must drop as well. `graph.py` finds these groups.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headway.compress.slices import Axis, Place, axes, cut, is_convolution, width

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
class Count:
    """A number that a module keeps of its heads or of their channels: an attribute, lowered with each that goes.

    Attributes:
        module: its name.
        attribute: its attribute.
        each: what a head less takes from it.
    """

    module: str
    attribute: str
    each: int


@dataclass(frozen=True)
class Group:
    """Channels that go together.

    Attributes:
        name: the layer whose outputs they are.
        channels: how many.
        fold: the channels fall into so many equal parts that must lose the same channels.
        members: every side they go through.
        heads: whether each is a whole head of an attention.
        counts: what is kept of their number.
    """

    name: str
    channels: int
    fold: int
    members: tuple[Member, ...]
    heads: bool = False
    counts: tuple[Count, ...] = ()


def kind(model: nn.Module, group: Group) -> Literal["convolution", "linear"]:
    """Which kernels a group's width matters to."""
    modules = [model.get_submodule(member.place.name) for member in group.members]
    return "convolution" if any(is_convolution(module) for module in modules) else "linear"


def remove(model: nn.Module, group: Group, channels: Indices) -> dict[Place, list[int]]:
    """Cut `channels` of a group, or heads, out of the model, in place.

    Returns:
        What each side kept, numbered as before the cut.
    """
    kept = {}
    for member in group.members:
        gone = set(member.positions[np.isin(member.roots, channels)].tolist())
        kept[member.place] = [channel for channel in range(_width(model, member.place)) if channel not in gone]
        cut(model, member.place, kept[member.place])
    for count in group.counts:
        module = model.get_submodule(count.module)
        setattr(module, count.attribute, getattr(module, count.attribute) - count.each * len(channels))
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
