"""What a node of ONNX Runtime's trace read and wrote in a run: dimensions and bytes.

The trace gives the type and dimensions of every tensor that a node got (`input_type_shape`) and made
(`output_type_shape`), in the node's order, so shapes that hang on data are known as well. A constant that a kernel has
packed for itself is missing among them; what the graph's file says of it stands in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from headway.core.tensors import DATATYPES
from headway.runtimes.onnx_graph import Graph, Node

Dims = tuple[int, ...]
_ROWS = {row.ort: row for row in DATATYPES}


class Traffic(NamedTuple):
    """Of one node, as `profiling.Operator` has them."""

    given: tuple[Dims | None, ...] = ()
    made: tuple[Dims, ...] = ()
    datatype: str = ""
    weight_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class _Tensor(NamedTuple):
    datatype: str
    dims: Dims
    size: int


def traffic(node: Node, graph: Graph, about: Mapping[str, Any]) -> Traffic:
    """What `node` read and wrote.

    Args:
        node: of the graph that ONNX Runtime made.
        graph: that one.
        about: the `args` of its event in the trace.
    """
    inputs, outputs = _tensors(about.get("input_type_shape")), _tensors(about.get("output_type_shape"))
    spare = len(inputs) - sum(name != "" and name not in graph.weights for name in node.inputs)  # constants listed
    given: list[Dims | None] = []
    datatype, read = "", 0
    for name in node.inputs:
        if name in graph.weights:
            given.append(graph.weights[name])
            if spare > 0 and inputs and inputs[0].dims == graph.weights[name]:
                spare -= 1
                inputs.pop(0)
        elif name and inputs:
            tensor = inputs.pop(0)
            datatype, read = datatype or tensor.datatype, read + tensor.size
            given.append(tensor.dims)
        else:
            given.append(None)
    return Traffic(
        given=tuple(given),
        made=tuple(tensor.dims for tensor in outputs),
        datatype=datatype,
        weight_bytes=sum(graph.sizes.get(name, 0) for name in node.inputs),
        read_bytes=read,
        written_bytes=sum(tensor.size for tensor in outputs),
    )


def _tensors(listed: Sequence[Mapping[str, Sequence[int]]] | None) -> list[_Tensor]:
    found = []
    for entry in listed or ():
        for spelling, dims in entry.items():
            row = _ROWS.get(f"tensor({spelling})")
            found.append(_Tensor(row.name if row else "", tuple(dims), math.prod(dims) * (row.size if row else 0)))
    return found
