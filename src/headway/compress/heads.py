"""Attention heads: which channels of the layers around an attention are a head's, and can only go together.

Nothing is known of how a model's author splits channels into heads, nor where the number of heads is kept. So it is
tried: of the whole numbers that a module around the layers holds, each may be the heads, or a head's width. A head is
cut from a copy, and the numbers are lowered; if the copy answers what the model answers with the head's outputs set to
zero, that is how it splits them (Michel et al. 2019, "Are Sixteen Heads Really Better than One?", mask heads likewise).
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from headway.compress.channels import Count, Forward, Group, Member, remove
from headway.core.errors import TaskError

_MOST_NUMBERS = 6  # of a module that may change with its heads: every set of them is tried
_TOLERANCE = 1e-4


def find_heads(model: nn.Module, group: Group, forward: Forward) -> Group | None:
    """The group with a head for each channel; None where it is no attention whose heads can go.

    Args:
        model: in evaluation mode.
        group: of channels, none of which can go alone.
        forward: runs a module on an example and returns its outputs.
    """
    modules = [model.get_submodule(member.place.name) for member in group.members]
    readers = [member for member in group.members if member.place.side == "in"]
    if not readers or not all(isinstance(module, nn.Linear) for module in modules):
        return None
    width = min(len(member.positions) for member in readers)  # of queries, which may be stacked with keys and values
    if group.channels % width:
        return None
    owners = sorted({m.place.name.rpartition(".")[0] for m in group.members if m.place.side == "out"})
    numbers = [
        (owner, name, value)
        for owner in owners
        for name, value in vars(model.get_submodule(owner)).items()
        if type(value) is int and value > 1 and width % value == 0
    ]
    found = {value for _, _, value in numbers} | {width // value for _, _, value in numbers}
    for heads in sorted(found - {1, width}, reverse=True):
        members = tuple(_by_head(member, width, width // heads) for member in group.members)
        whole = replace(group, channels=heads, fold=1, members=members, heads=True)
        wanted = _masked(model, whole, forward)
        for counts in _sets(numbers, heads, width):
            if _agrees(model, replace(whole, counts=counts), forward, wanted):
                return replace(whole, counts=counts)
    return None


def _by_head(member: Member, width: int, size: int) -> Member:
    return replace(member, roots=member.roots % width // size)


def _sets(numbers: Sequence[tuple[str, str, int]], heads: int, width: int) -> Iterator[tuple[Count, ...]]:
    """Which numbers a head's loss may lower, the largest set first: the author may have kept some for no use."""
    can = [Count(owner, name, 1 if value == heads else width // heads) for owner, name, value in numbers
           if value in (heads, width)][:_MOST_NUMBERS]  # fmt: skip
    for size in range(len(can), -1, -1):
        yield from itertools.combinations(can, size)


def _masked(model: nn.Module, group: Group, forward: Forward) -> tuple[torch.Tensor, ...]:
    """Outputs of the model without what its first head puts out."""
    trial = copy.deepcopy(model)
    with torch.no_grad():
        for member in group.members:
            if member.place.side == "in":
                gone = torch.from_numpy(member.positions[member.roots == 0])
                trial.get_submodule(member.place.name).get_parameter("weight")[:, gone] = 0
        return forward(trial)


def _agrees(model: nn.Module, group: Group, forward: Forward, wanted: Sequence[torch.Tensor]) -> bool:
    trial = copy.deepcopy(model)
    try:
        remove(trial, group, np.zeros(1, np.int64))
        with torch.no_grad():
            outputs = forward(trial)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ZeroDivisionError, TaskError):
        return False
    return all(_close(have, want) for have, want in zip(outputs, wanted, strict=True))


def _close(have: torch.Tensor, want: torch.Tensor) -> bool:
    atol = _TOLERANCE * float(want.abs().max())
    return have.shape == want.shape and torch.allclose(have, want, rtol=_TOLERANCE, atol=atol)
