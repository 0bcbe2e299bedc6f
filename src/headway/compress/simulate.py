"""Fake quantization: a torch module computes in floats what its 8-bit graph will compute in integers.

Nothing in the module is replaced. A `TorchFunctionMode` sees every torch function that a forward pass calls, whether a
layer or a bare `+` calls it, and rounds the tensors that `qdq.write` puts QuantizeLinear and DequantizeLinear around:

- weights of convolutions and linear layers, s8 and symmetric, one scale for each output channel;
- what enters and leaves layers, sums and concatenations, at ranges found from calibration data;
- not between a layer and the batch norm or the ReLU after it, which run fused with it.

Folding batch norm into a convolution multiplies each output channel's weights by a number. A symmetric scale for each
channel takes the same number, so rounding before folding and after are the same, and nothing has to be folded here.
Batch norm must then run on its running statistics, as it does in the graph.

Rounding has no slope. Its gradient is taken as 1 within the range and 0 beyond (straight-through estimator: Bengio et
al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons"; Jacob et al. 2018, section 3).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from headway.compress.calibration import Method, Range, find_ranges
from headway.compress.rewrite import LIMITS
from headway.core.errors import TaskError
from headway.core.modules import forward
from headway.core.tensors import Array

_LEVELS = 255  # steps between 256 codes
_KINDS = {
    "layer": ("conv1d", "conv2d", "conv3d", "linear"),
    "norm": ("batch_norm",),
    "rectifier": ("relu", "relu_", "relu6", "hardtanh", "hardtanh_"),
    "other": (
        "add", "add_", "__add__", "__iadd__", "__radd__", "mul", "mul_", "__mul__", "__imul__", "__rmul__", "cat",
        "concat", "leaky_relu", "sigmoid",
    ),
}  # fmt: skip
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}
_SAME = {  # functions that move values and compute nothing
    "max_pool2d", "_max_pool2d", "boolean_dispatch", "flatten", "reshape", "view", "permute", "transpose", "squeeze",
    "unsqueeze", "contiguous", "dropout", "to", "float", "__getitem__", "chunk", "split",
}  # fmt: skip
_QUIET = {"__get__", "__set__", "size", "dim", "numel", "stride", "is_floating_point", "requires_grad_", "detach"}


def fake(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`values` rounded to 256 levels of [low, high], which holds 0, as ONNX Runtime's quantizer places them."""
    step = (high - low) / _LEVELS
    if step < torch.finfo(torch.float32).tiny:
        return values
    zero = round(-low / step)
    least, most = -zero * step, (_LEVELS - zero) * step
    inside = values.clamp(least, most)
    return inside + (torch.round(inside / step) * step - inside).detach()


def fake_weight(weight: torch.Tensor, limit: int) -> torch.Tensor:
    """A weight, [out, ...], rounded to codes of at most `limit`, with one scale for each output channel."""
    largest = weight.detach().abs().flatten(1).amax(dim=1).clamp_min(1e-30)
    step = (largest / limit).reshape(-1, *[1] * (weight.dim() - 1))
    return weight + (torch.round(weight / step).clamp(-limit, limit) * step - weight).detach()


@dataclass
class _Call:
    """A call that matters, in the order of the forward pass.

    Attributes:
        name: of the function.
        sources: for each tensor among its arguments, the call that made it; None where none that matters did.
    """

    name: str
    sources: list[int | None]

    @property
    def kind(self) -> str:
        return _KIND[self.name]


@dataclass
class Points:
    """Where a module's forward pass is rounded.

    Attributes:
        names: of the calls that matter, in order: every pass must make the same ones.
        layers: calls whose weights are rounded.
        outputs: calls whose result is rounded.
        inputs: (call, position among its tensors) of arguments that are rounded, as no call that matters made them.
    """

    names: list[str]
    layers: set[int] = field(default_factory=set)
    outputs: set[int] = field(default_factory=set)
    inputs: set[tuple[int, int]] = field(default_factory=set)


def find_points(run: Callable[[], object], keep: Sequence[str]) -> Points:
    """Watch one forward pass and decide what is rounded.

    Args:
        run: the forward pass, in evaluation mode.
        keep: `first` and `last` of the layers with weights stay in 32 bits.

    Raises:
        TaskError: no layer is left to quantize.
    """
    watch = _Watch()
    with torch.no_grad(), watch:
        run()
    calls, uses = watch.calls, watch.uses
    layers = [i for i, call in enumerate(calls) if call.kind == "layer"]
    kept = {*(layers[:1] if "first" in keep else ()), *(layers[-1:] if "last" in keep else ())}
    points = Points([call.name for call in calls], set(layers) - kept)
    if not points.layers:
        raise TaskError(
            "no convolution or linear layer is left to quantize", where="qat", remedy="Leave the qat step out."
        )
    for i, call in enumerate(calls):
        if i in kept or call.kind not in ("layer", "other"):
            continue
        points.outputs.add(i)
        for position, source in enumerate(call.sources):
            if source is None:
                points.inputs.add((i, position))
            else:
                points.outputs.add(source)
    for i, call in enumerate(calls):  # in order, so that convolution, norm and ReLU pass it on from one to the next
        source = next(iter(call.sources), None) if call.kind in ("norm", "rectifier") else None
        if source is None or source not in points.outputs or uses[source] > 1:
            continue
        if call.kind == "rectifier" or calls[source].kind == "layer":
            points.outputs.discard(source)
            points.outputs.add(i)
    return points


class _Watch(TorchFunctionMode):
    """Notes the calls that matter and who made their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.uses: Counter[int | None] = Counter()
        self._made: dict[int, int] = {}  # the call that made a tensor, by the tensor's id
        self._alive: list[torch.Tensor] = []  # an id stays the tensor's own only while the tensor lives

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        args, kwargs = _positional(name, args, kwargs or {})
        sources = [self._made.get(id(value)) for value in _activations(name, args)]
        result = func(*args, **kwargs)
        if name in _QUIET:
            return result
        self.uses.update(sources if name not in _SAME else ())
        if name in _KIND:
            self.calls.append(_Call(name, sources))
            self._note(result, len(self.calls) - 1)
        elif name in _SAME and sources[:1] not in ([], [None]):
            self._note(result, sources[0])
        else:
            self._note(result, None)
        return result

    def _note(self, result: Any, call: int | None) -> None:
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self._alive.append(value)
                self._made.pop(id(value), None)
                if call is not None:
                    self._made[id(value)] = call


class _Rounding(TorchFunctionMode):
    """Rounds weights, and gives every other point's tensor to `at`, which returns what to go on with."""

    def __init__(self, points: Points, limit: int, at: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._points, self._limit, self._at = points, limit, at
        self._next = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name not in _KIND:
            return func(*args, **kwargs)
        args, kwargs = _positional(name, args, kwargs)
        call, self._next = self._next, self._next + 1
        if call >= len(self._points.names) or self._points.names[call] != name:
            raise TaskError(
                f"call {call} of the forward pass is {name}, and was another when the model was first looked at",
                where="qat",
                remedy="The model must call the same functions in training and in evaluation.",
            )
        rounded = {
            id(value): self._at(f"{call}.{position}", value)
            for position, value in enumerate(_activations(name, args))
            if (call, position) in self._points.inputs
        }
        if call in self._points.layers:
            rounded[id(args[1])] = fake_weight(args[1], self._limit)
        result = func(*_replaced(args, rounded), **kwargs)
        return self._at(str(call), result) if call in self._points.outputs else result

    def finish(self) -> None:
        """Hold the pass to having made every call."""
        if self._next != len(self._points.names):
            raise TaskError("the forward pass calls fewer functions than when the model was looked at", where="qat")


class Simulated(nn.Module):
    """A module whose forward pass is rounded as its 8-bit graph will be; parameters are the module's own.

    Args:
        model: what is simulated.
        points: from `find_points`.
        ranges: by point.
        weight_range: of 8-bit weights.
    """

    def __init__(self, model: nn.Module, points: Points, ranges: Mapping[str, Range], weight_range: str) -> None:
        super().__init__()
        self.model = model
        self.points, self.ranges, self.limit = points, dict(ranges), LIMITS[weight_range]

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What the module returns."""
        mode = _Rounding(self.points, self.limit, lambda name, value: fake(value, *self.ranges[name]))
        with mode:
            result = self.model(*inputs)
        mode.finish()
        return result

    def train(self, mode: bool = True) -> "Simulated":
        """Batch norm stays on its running statistics, as it is folded with them."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def calibrate(
        self,
        batches: Callable[[], Iterable[Mapping[str, Array]]],
        outputs: Sequence[str],
        method: Method,
        percentile: float,
    ) -> None:
        """Take ranges from data; nothing is rounded meanwhile, as the graph's own are taken from its floats.

        Raises:
            DataError: there is no data, or it brings about NaN or infinity.
        """
        device = next(self.parameters()).device

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            seen: dict[str, Array] = {}

            def at(name: str, value: torch.Tensor) -> torch.Tensor:
                seen[name] = value.detach().cpu().numpy()
                return value

            tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
            bare = Points(self.points.names, set(), self.points.outputs, self.points.inputs)
            with torch.no_grad(), _Rounding(bare, self.limit, at):
                forward(self.model, tensors, outputs)
            return seen

        self.eval()
        self.ranges = find_ranges(run, batches, method, percentile)


def _positional(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with its input, and a layer's weight, among the positional arguments."""
    if name in _KIND:
        for key in ("input", "weight")[len(args) : 2 if _KIND[name] == "layer" else 1]:
            if key in kwargs:
                args, kwargs = (*args, kwargs[key]), {k: v for k, v in kwargs.items() if k != key}
    return args, kwargs


def _activations(name: str, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The float tensors among the arguments that are no parameters; of a layer or a norm, only the first."""
    if _KIND.get(name) in ("layer", "norm"):
        args = args[:1]
    flat = [item for value in args for item in (value if isinstance(value, tuple | list) else (value,))]
    return [
        item
        for item in flat
        if isinstance(item, torch.Tensor) and not isinstance(item, nn.Parameter) and item.is_floating_point()
    ]


def _replaced(args: tuple[Any, ...], by_id: Mapping[int, torch.Tensor]) -> tuple[Any, ...]:
    return tuple(
        type(value)(by_id.get(id(item), item) for item in value)
        if isinstance(value, tuple | list)
        else by_id.get(id(value), value)
        for value in args
    )
