"""How sound the weights of an ONNX file are: what is not finite, channels that give nothing, scales out of line.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Weights of the main
graph that lie in the file are looked at; what lies in other files is counted as unread.
"""

import math
import mmap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import FormatError
from headway.runtimes.onnx_tensor import read_tensor
from headway.runtimes.wire import Buffer, fields

_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8"), 16: np.dtype("<u2")}
_BF16 = 16
_ODD, _ENOUGH = 100.0, 4  # times the median of its kind, among so many


class Weight(NamedTuple):
    """One floating-point weight.

    Attributes:
        operator: that takes it as its weight, such as "Conv"; "" for another or none.
        nan, infinite: elements.
        channels: outputs that it makes; 0 where that is not known.
        dead: of those, how many have no weight but zeros: whatever comes in, they give their bias.
        largest: absolute value of a finite element.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    nan: int
    infinite: int
    channels: int
    dead: int
    largest: float


class Health(NamedTuple):
    """What was found: `odd` is how many times the median of its operator's weights a weight's largest value is."""

    weights: tuple[Weight, ...]
    odd: Mapping[str, float]
    unread: int

    def document(self) -> dict[str, Any]:
        """For `headway inspect --json`."""
        return {
            "nan": sum(weight.nan for weight in self.weights),
            "infinite": sum(weight.infinite for weight in self.weights),
            "dead_channels": sum(weight.dead for weight in self.weights),
            "odd_scales": len(self.odd),
            "unread": self.unread,
            "tensors": [weight._asdict() | {"times_median": self.odd.get(weight.name)} for weight in self.weights],
        }


def read_health(path: Path) -> Health:
    """Look at every weight of an ONNX file, one at a time.

    Raises:
        FormatError: its bytes are no ONNX model, or a weight's bytes are not what its shape takes.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last view of it
        found = _Reader().model(memoryview(mapped))
    except (ValueError, OverflowError) as error:  # numpy's, of a dimension past 64 bits
        raise FormatError(f"not a sound ONNX model: {error}", where=str(path)) from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return found


class _Reader:
    def __init__(self) -> None:
        self.roles: dict[str, tuple[str, int]] = {}  # by weight, the operator that takes it and the axis of its outputs
        self.weights: list[Weight] = []
        self.unread = 0

    def model(self, message: Buffer) -> Health:
        for graph in (item.message for item in fields(message) if item.number == 7):
            for node in (item.message for item in fields(graph) if item.number == 1):
                self.node(node)
            for tensor in (item.message for item in fields(graph) if item.number == 5):
                self.tensor(tensor)
        return Health(tuple(self.weights), _odd(self.weights), self.unread)

    def node(self, message: Buffer) -> None:
        inputs, operator, transposed = [], "", False
        for item in fields(message):
            if item.number == 1:
                inputs.append(item.text)
            elif item.number == 4:
                operator = item.text
            elif item.number == 5:
                about = {part.number: part for part in fields(item.message)}
                transposed |= 1 in about and about[1].text == "transB" and 3 in about and about[3].value == 1
        axes = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": 0 if transposed else -1}
        if operator in axes and len(inputs) > 1:
            self.roles.setdefault(inputs[1], (operator, axes[operator]))

    def tensor(self, message: Buffer) -> None:
        found = read_tensor(message)
        if found.kind not in _FLOATS:
            return
        if found.external:
            self.unread += 1
            return
        values = _raw(found.raw, found.kind) if found.raw is not None else _typed(message, found.kind)
        if values.size != math.prod(found.dims):
            shape = list(found.dims)
            raise ValueError(f"{found.name}: {values.size} elements, where its shape {shape} has {math.prod(shape)}")
        self.weights.append(self.judged(found.name, values.reshape(found.dims)))

    def judged(self, name: str, values: NDArray[Any]) -> Weight:
        operator, axis = self.roles.get(name, ("", 0))
        finite = np.isfinite(values)
        nan = int(np.count_nonzero(np.isnan(values)))
        channels = dead = 0
        if operator and values.ndim > 1:
            others = tuple(n for n in range(values.ndim) if n != axis % values.ndim)
            channels = values.shape[axis]
            dead = int(np.count_nonzero(~values.any(axis=others)))
        largest = float(np.abs(values, where=finite, out=np.zeros_like(values)).max(initial=0))
        infinite = values.size - int(np.count_nonzero(finite)) - nan
        return Weight(name, operator, values.shape, nan, infinite, channels, dead, largest)


def _raw(data: Buffer, kind: int) -> NDArray[Any]:
    dtype = _FLOATS[kind]
    if len(data) % dtype.itemsize:
        raise ValueError(f"{len(data)} bytes of weights are no whole number of {dtype.itemsize}")
    values = np.frombuffer(data, dtype)
    return _wide(values) if kind == _BF16 else values


def _typed(message: Buffer, kind: int) -> NDArray[Any]:
    """Values that are kept one by one: 32- and 64-bit floats as such, 16-bit ones as whole numbers of their bits."""
    number = {1: 4, 11: 10}.get(kind, 5)
    parts = [item for item in fields(message) if item.number == number]
    if kind in (1, 11):
        return np.concatenate([np.zeros(0, _FLOATS[kind]), *(np.frombuffer(p.message, _FLOATS[kind]) for p in parts)])
    bits = np.array([value & 0xFFFF for part in parts for value in part.numbers()], "<u2")
    return _wide(bits) if kind == _BF16 else bits.view("<f2")


def _wide(bits: NDArray[Any]) -> NDArray[Any]:
    """bfloat16, which numpy lacks, as float32: it is its upper half."""
    return (bits.astype("<u4") << 16).view("<f4")


def _odd(weights: list[Weight]) -> dict[str, float]:
    """Ratios that are out of line, by weight."""
    kinds = defaultdict(list)
    for weight in weights:
        if weight.operator and weight.largest > 0:
            kinds[weight.operator].append(weight)
    return {name: ratio for kind in kinds.values() if len(kind) >= _ENOUGH for name, ratio in _ratios(kind)}


def _ratios(kind: list[Weight]) -> Iterator[tuple[str, float]]:
    median = float(np.median([weight.largest for weight in kind]))
    for weight in kind:
        ratio = weight.largest / median
        if not 1 / _ODD <= ratio <= _ODD:
            yield weight.name, ratio
