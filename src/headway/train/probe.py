"""How a model was initialised, seen on the first batch before anything is trained.

He et al. 2015 (section 2.2): an initialisation should keep the second moment of the activations about the same from
layer to layer; where it grows or shrinks by a factor at each, the last layers see overflow or nothing. A ReLU whose
inputs are all negative passes no gradient, and neither does a sigmoid or tanh that is driven to its ends (Glorot and
Bengio 2010).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from headway.tasks.seeding import seeded
from headway.train.monitor import Finding

_GAIN = 100.0  # of one layer
_CHAIN = 1000.0  # over all layers
_LEAST_LAYERS = 5
_SAME_WAY = 0.8  # of the layers in a chain that grows or shrinks
_ZEROS = 0.95
_SATURATED = 0.5
_END = 0.98  # of a bounded activation's range
_TANH, _SIGMOID = (nn.Tanh, nn.Hardtanh), (nn.Sigmoid, nn.Hardsigmoid)


@dataclass(frozen=True)
class _Seen:
    """A module's call: `moments` are root mean squares, [input, output]; `share` is of its outputs."""

    name: str
    kind: str
    moments: tuple[float, float] = (0.0, 0.0)
    share: float = 0.0


def probe(model: nn.Module, forward: Callable[[], object]) -> list[Finding]:
    """What is odd before the first step. Buffers and random numbers are as before afterwards.

    Args:
        model: on its device, in training mode.
        forward: runs it on the first batch.
    """
    seen: list[tuple[str, str, list[torch.Tensor]]] = []
    hooks = [
        module.register_forward_hook(_watch(name, kind, seen))
        for name, module in model.named_modules()
        if (kind := _kind(module))
    ]
    try:
        with torch.no_grad(), seeded(0), _buffers_kept(model):
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    flat = torch.stack([value for *_, values in seen for value in values]).tolist() if seen else []
    calls, figures = [], iter(flat)
    for name, kind, values in seen:
        got = [next(figures) for _ in values]
        calls.append(_Seen(name, kind, (got[0], got[1])) if kind == "weighted" else _Seen(name, kind, share=got[0]))
    return [*_weights(model), *_activations(calls), *_scales([call for call in calls if call.kind == "weighted"])]


def _kind(module: nn.Module) -> str:
    kinds = {"weighted": (nn.Linear, _ConvNd), "relu": (nn.ReLU, nn.ReLU6), "tanh": _TANH, "sigmoid": _SIGMOID}
    return next((kind for kind, types in kinds.items() if isinstance(module, types)), "")


def _watch(name: str, kind: str, seen: list[tuple[str, str, list[torch.Tensor]]]) -> Callable[..., None]:
    def look(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        given = inputs[0] if inputs else None
        if not isinstance(output, torch.Tensor) or not isinstance(given, torch.Tensor):
            return
        value = output.detach().float()
        if kind == "weighted":
            figures = [given.detach().float().square().mean().sqrt(), value.square().mean().sqrt()]
        elif kind == "relu":
            figures = [(value == 0).float().mean()]
        else:
            centred = value if kind == "tanh" else 2 * value - 1
            figures = [(centred.abs() > _END).float().mean()]
        seen.append((name, kind, figures))

    return look


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Batch norm counts every batch it sees in training mode."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _weights(model: nn.Module) -> list[Finding]:
    """Weights that are all the same: every unit then computes the same, and learns the same, for ever."""
    named = [
        (name, value.detach()) for name, value in model.named_parameters() if value.dim() > 1 and value.numel() > 1
    ]
    if not named:
        return []
    ends = torch.stack([end.float() for _, value in named for end in value.aminmax()]).tolist()
    found = []
    for (name, _), low, high in zip(named, ends[::2], ends[1::2], strict=True):
        if low == high:
            what = "zero" if low == 0 else f"{low:g}"
            advice = (
                "initialise it with small random numbers (torch.nn.init.kaiming_normal_), unless it ends a residual "
                "branch, which may begin with zeros"
            )
            found.append(Finding("constant", name, 0, low, f"all its weights are {what}", advice))
    return found


def _activations(calls: list[_Seen]) -> list[Finding]:
    found = []
    for call in calls:
        if call.kind == "relu" and call.share > _ZEROS:
            message = f"{call.share:.0%} of its outputs on the first batch are 0: nothing is learnt through it"
            advice = "look at the bias and weights of the layer before it; biases begin with 0"
            found.append(Finding("dead", call.name, 0, call.share, message, advice))
        elif call.kind in ("tanh", "sigmoid") and call.share > _SATURATED:
            message = f"{call.share:.0%} of its outputs on the first batch are at the ends of its range"
            advice = (
                "smaller weights in the layer before it (torch.nn.init.xavier_uniform_), or inputs scaled to about 1"
            )
            found.append(Finding("saturated", call.name, 0, call.share, message, advice))
    return found


def _scales(layers: list[_Seen]) -> list[Finding]:
    """Layers that alone, or one after the other, change the scale of what passes through."""
    found = []
    kept = [layer for layer in layers if all(0 < moment < math.inf for moment in layer.moments)]
    for layer in kept:
        gain = layer.moments[1] / layer.moments[0]
        if not 1 / _GAIN <= gain <= _GAIN:
            message = f"its outputs have {gain:.3g} times the scale of its inputs"
            advice = "initialise it so that the scale stays (torch.nn.init.kaiming_normal_)"
            found.append(Finding("scale", layer.name, 0, gain, message, advice))
    if found or len(kept) < _LEAST_LAYERS:
        return found
    gains = [after.moments[1] / before.moments[1] for before, after in pairwise(kept)]
    whole = kept[-1].moments[1] / kept[0].moments[1]
    same_way = sum((gain > 1) == (whole > 1) for gain in gains) / len(gains)
    if same_way >= _SAME_WAY and not 1 / _CHAIN <= whole <= _CHAIN:
        grows = "grow" if whole > 1 else "shrink"
        message = f"activations {grows} layer by layer, {whole:.3g} times over {len(kept)} layers"
        advice = "kaiming_normal_ initialisation, normalisation layers, or residual connections"
        found.append(Finding("scale", kept[-1].name, 0, whole, message, advice))
    return found
