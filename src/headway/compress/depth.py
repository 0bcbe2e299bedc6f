"""Dropping layers: of a stack whose layers follow each other, some stay (Sanh et al. 2019, "DistilBERT", section 3)."""

from collections.abc import Mapping, Sequence

from torch import nn

from headway.core.config import unknown_key
from headway.core.errors import TaskError


def keep_layers(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """Leave only some layers of each named `nn.Sequential` or `nn.ModuleList`, in place, with the weights they have.

    They are then numbered anew. Whether the model still runs is not looked at.

    Args:
        model: what is cut.
        kept: by the stack's name, the layers that stay, counted from 0.

    Raises:
        TaskError: there is no such stack, or no such layer in it.
    """
    stacks = {name: m for name, m in model.named_modules() if name and isinstance(m, nn.Sequential | nn.ModuleList)}
    for name, places in kept.items():
        where = f"keep_layers: {name}"
        if name not in stacks:
            raise TaskError(
                unknown_key(name, set(stacks), "stack of layers"),
                where=where,
                remedy="Name an nn.Sequential or nn.ModuleList of the model.",
            )
        stack = stacks[name]
        if places[-1] >= len(stack):
            raise TaskError(f"there is no layer {places[-1]}: the last one is {len(stack) - 1}", where=where)
        for place in sorted(set(range(len(stack))) - set(places), reverse=True):
            del stack[place]
    return model
