"""The nodes of an ONNX file in their order, read from its bytes as `onnx_file` reads the rest.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import math
from dataclasses import dataclass
from pathlib import Path

from headway.core.tensors import DATATYPES
from headway.runtimes.onnx_tensor import read_mapped, read_tensor
from headway.runtimes.wire import Buffer, fields

_BITS = {row.onnx: 8 * row.size for row in DATATYPES} | {21: 4, 22: 4}  # by datatype number; the last are (u)int4


@dataclass(frozen=True)
class Node:
    """One node of the main graph; an absent optional input is "". Other domains' operators are `domain.name`."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The main graph: what its nodes compute from what.

    Attributes:
        nodes: in the file's order, which is topological.
        weights: dimensions of every initializer, by name.
        sizes: bytes of every initializer, by name.
    """

    nodes: tuple[Node, ...]
    weights: dict[str, tuple[int, ...]]
    sizes: dict[str, int]


def read_graph(path: Path) -> Graph:
    """The main graph of an ONNX file; weights are skipped, not read.

    Raises:
        FormatError: not an ONNX model.
    """
    return read_mapped(path, _graph)


def _graph(view: memoryview) -> Graph:
    nodes: list[Node] = []
    weights: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    for model in (item for item in fields(view) if item.number == 7):
        for item in fields(model.message):
            if item.number == 1:
                nodes.append(_node(item.message))
            elif item.number == 5:
                weight = read_tensor(item.message)
                weights[weight.name] = weight.dims
                sizes[weight.name] = math.ceil(math.prod(weight.dims) * _BITS.get(weight.kind, 8) / 8)
    return Graph(tuple(nodes), weights, sizes)


def _node(message: Buffer) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    for item in fields(message):
        if item.number in texts:
            texts[item.number].append(item.text)
    domain = "".join(texts[7])
    operator = "".join(texts[4])
    operator = f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator
    return Node("".join(texts[3]), operator, tuple(texts[1]), tuple(texts[2]))
