"""Finds a model's groups of channels, with torch-pruning's dependency graph (Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning"), and tries each before it is offered.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from headway.compress.channels import Forward, Group, Member, remove
from headway.compress.heads import find_heads
from headway.compress.slices import Place, Side, axes, groups, is_depthwise
from headway.core.errors import TaskError
from headway.export.quiet import quiet


def find_groups(model: nn.Module, forward: Forward) -> list[Group]:
    """Every group of channels whose loss leaves the model's outputs in the shape they have.

    A group is tried before it is offered: one channel is cut from a copy, which must still run. So layers that feed the
    outputs, and those whose widths are written into the model's code, are left alone. Channels around an attention are
    offered as heads, where whole heads can go.

    Args:
        model: in evaluation mode.
        forward: runs a module on an example and returns its outputs.

    Raises:
        TaskError: the model cannot be traced, or none of its layers can be pruned.
    """
    with torch.no_grad():
        shapes = [output.shape for output in forward(model)]
    found = []
    for group in _traced(model, forward):
        fit = group if _holds(model, group, forward, shapes) else find_heads(model, group, forward)
        if fit is not None:
            found.append(fit)
    if not found:
        raise TaskError(
            "no layer of the model can be pruned",
            remedy="Only channels of convolutions and linear layers that other layers read can go, and whole heads of "
            "an attention made of nn.Linear; nn.MultiheadAttention keeps its heads. Leave the step out.",
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
