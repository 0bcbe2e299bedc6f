"""The nodes of an ONNX file in their order, read from its bytes as `onnx_file` reads the rest.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

from headway.core.errors import FormatError
from headway.runtimes.wire import Buffer, fields


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
    """

    nodes: tuple[Node, ...]
    weights: dict[str, tuple[int, ...]]


def read_graph(path: Path) -> Graph:
    """The main graph of an ONNX file; weights are skipped, not read.

    Raises:
        FormatError: not an ONNX model.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            found = _read(view)
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot be read: {error}", where=str(path)) from error
    if isinstance(found, str):
        raise FormatError(f"not an ONNX model: {found}", where=str(path))
    return found


def _read(view: memoryview) -> Graph | str:
    """The graph, or why there is none. An exception would keep spans alive, and the mapping could not be closed."""
    nodes: list[Node] = []
    weights: dict[str, tuple[int, ...]] = {}
    try:
        for model in (item for item in fields(view) if item.number == 7):
            for item in fields(model.message):
                if item.number == 1:
                    nodes.append(_node(item.message))
                elif item.number == 5:
                    name, dims = _weight(item.message)
                    weights[name] = dims
    except ValueError as error:
        return str(error)
    return Graph(tuple(nodes), weights)


def _node(message: Buffer) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    for item in fields(message):
        if item.number in texts:
            texts[item.number].append(item.text)
    domain = "".join(texts[7])
    operator = "".join(texts[4])
    operator = f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator
    return Node("".join(texts[3]), operator, tuple(texts[1]), tuple(texts[2]))


def _weight(message: Buffer) -> tuple[str, tuple[int, ...]]:
    name, dims = "", list[int]()
    for item in fields(message):
        if item.number == 1:
            dims.extend(item.numbers())
        elif item.number == 8:
            name = item.text
    return name, tuple(dims)
