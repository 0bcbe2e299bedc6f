"""What an ONNX file holds, read from its bytes: neither the onnx package nor an inference engine is needed.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from headway.core.tensors import DATATYPES
from headway.runtimes.onnx_tensor import read_mapped, read_tensor
from headway.runtimes.wire import Buffer, Field, fields

_DEPTH = 32
_INT8 = {2, 3, 21, 22}  # uint8, int8, uint4, int4


@dataclass(frozen=True)
class Value:
    """An input or output: `datatype` as the Open Inference Protocol has it, a dimension by size, by name, or "?"."""

    name: str
    datatype: str
    shape: tuple[int | str, ...] | None


@dataclass
class OnnxFile:
    """What an ONNX file holds.

    Attributes:
        opsets: version by domain; "" is ONNX's own.
        operators: how often each is used, subgraphs and functions included; other domains' as `domain.name`.
        parameters: elements of all initializers.
        parameters_by_type: the same, by ONNX datatype number.
        external: tensors whose data lies in other files.
    """

    ir_version: int = 0
    producer: str = ""
    graph: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    initializers: int = 0
    parameters_by_type: Counter[int] = field(default_factory=Counter)
    external: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Elements of all initializers."""
        return self.parameters_by_type.total()

    @property
    def precision(self) -> str:
        """ "int8" where it is quantized, else the datatype of most weights, such as "fp32"."""
        quantized = "QuantizeLinear" in self.operators or "DequantizeLinear" in self.operators
        if quantized or any(name.startswith(("QLinear", "MatMulInteger", "ConvInteger")) for name in self.operators):
            return "int8"
        floating = {number: count for number, count in self.parameters_by_type.items() if number in (1, 10, 11, 16)}
        if not floating:
            return "fp32"
        return _datatype(max(floating, key=lambda number: floating[number])).lower()


def read_onnx(path: Path) -> OnnxFile:
    """Look into an ONNX file; its weights are skipped, not read.

    Raises:
        FormatError: not an ONNX model, truncated, or nested too deeply.
    """
    return read_mapped(path, lambda view: _Reader().model(view))


class _Reader:
    """Walks a model once. Every span of bytes is used and dropped, so that the mapping can be closed."""

    def __init__(self) -> None:
        self.found = OnnxFile()
        self.names: set[str] = set()

    def model(self, message: Buffer) -> OnnxFile:
        graphs = 0
        for item in fields(message):
            if item.number == 1:
                self.found.ir_version = item.value
            elif item.number == 2:
                self.found.producer = item.text
            elif item.number == 7:
                graphs += 1
                self.graph(item.message, 0)
            elif item.number == 8:
                self.opset(item.message)
            elif item.number == 25:
                for inner in fields(item.message):
                    if inner.number == 7:
                        self.node(inner.message, 0)
        if graphs != 1 or not self.found.ir_version or not self.found.opsets:
            raise ValueError("it has no graph, IR version or operator set")
        return self.found

    def opset(self, message: Buffer) -> None:
        domain, version = "", 0
        for item in fields(message):
            if item.number == 1:
                domain = item.text
            elif item.number == 2:
                version = item.value
        self.found.opsets["" if domain == "ai.onnx" else domain] = version

    def graph(self, message: Buffer, depth: int) -> None:
        if depth > _DEPTH:
            raise ValueError(f"graphs nested more than {_DEPTH} deep")
        inputs, outputs = [], []
        for item in fields(message):
            if item.number == 1:
                self.node(item.message, depth)
            elif item.number == 5:
                self.tensor(item.message, weight=True)
            elif item.number == 15:
                self.sparse(item.message)
            elif depth == 0 and item.number == 2:
                self.found.graph = item.text
            elif depth == 0 and item.number == 11:
                inputs.append(_value(item.message))
            elif depth == 0 and item.number == 12:
                outputs.append(_value(item.message))
        if depth == 0:
            # Up to IR version 3 every initializer was listed as an input as well.
            self.found.inputs = tuple(value for value in inputs if value.name not in self.names)
            self.found.outputs = tuple(outputs)

    def node(self, message: Buffer, depth: int) -> None:
        operator = domain = ""
        for item in fields(message):
            if item.number == 4:
                operator = item.text
            elif item.number == 7:
                domain = item.text
            elif item.number == 5:
                self.attribute(item.message, depth)
        self.found.operators[f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator] += 1

    def attribute(self, message: Buffer, depth: int) -> None:
        for item in fields(message):
            if item.number in (5, 10):
                self.tensor(item.message, weight=False)
            elif item.number in (6, 11):
                self.graph(item.message, depth + 1)
            elif item.number in (22, 23):
                self.sparse(item.message)

    def sparse(self, message: Buffer) -> None:
        for item in fields(message):
            if item.number in (1, 2):
                self.tensor(item.message, weight=item.number == 1)

    def tensor(self, message: Buffer, *, weight: bool) -> None:
        found = read_tensor(message)
        if found.external:
            self.found.external.append(found.name)
        if weight:
            self.names.add(found.name)
            self.found.initializers += 1
            self.found.parameters_by_type[found.kind] += math.prod(found.dims)


def _value(message: Buffer) -> Value:
    name, kind, shape = "", "", None
    for item in fields(message):
        if item.number == 1:
            name = item.text
        elif item.number == 2:
            kind, shape = _type(item)
    return Value(name, kind, shape)


def _type(item: Field) -> tuple[str, tuple[int | str, ...] | None]:
    for kind in fields(item.message):
        if kind.number != 1:
            return "not a tensor", None
        datatype, shape = "", None
        for part in fields(kind.message):
            if part.number == 1:
                datatype = _datatype(part.value)
            elif part.number == 2:
                shape = tuple(_dimension(dim) for dim in fields(part.message) if dim.number == 1)
        return datatype, shape
    return "", None


def _dimension(item: Field) -> int | str:
    for part in fields(item.message):
        if part.number == 1:
            return part.value
        if part.number == 2 and part.text:
            return part.text
    return "?"


def _datatype(number: int) -> str:
    return next((row.name for row in DATATYPES if row.onnx == number), f"ONNX type {number}")
