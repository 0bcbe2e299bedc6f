"""8-bit forms that need no calibration, written into an ONNX graph: products, stored weights and embedding tables.

- *Dynamic products*: `DynamicQuantizeLinear` takes the range of each run's activations, `MatMulInteger` multiplies.
- *Stored weights*: 8-bit weights go through `DequantizeLinear`; activations stay in 32 bits.
- *Tables*: `Gather` picks rows of an 8-bit table and, with the same indices, their scales. Only these rows ever become
  32 bits, in the file and in memory alike.

Convolutions are left alone: without ranges their 8-bit kernels are several times slower than the 32-bit ones. What was
measured, and the alternatives, stand in `docs/decisions/0030-dynamic-and-tables.md`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from headway.core.tensors import Array

if TYPE_CHECKING:
    import onnx

Kind = Literal["dynamic", "weights"]
LIMITS = {"full": 127, "reduced": 64}  # of 8-bit weights


def scaled(values: Array, axis: int | None, limit: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric 8-bit codes of `values`, and the scale that each index of `axis` (None: all of them) has.

    Args:
        values: float32.
        axis: the dimension that keeps a scale for each index.
        limit: the largest code.

    Returns:
        Codes, as `values` are shaped, and scales, [values.shape[axis]] or [].
    """
    others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others, keepdims=True, initial=0.0)
    # No step is so small that dividing by it overflows.
    scale = np.where(largest > 0, np.maximum(largest / limit, np.finfo(np.float32).tiny), 1.0).astype(np.float32)
    codes = np.clip(np.rint(values.astype(np.float32) / scale), -limit, limit).astype(np.int8)
    return codes, scale.reshape(-1) if axis is not None else scale.reshape(())


class Rewriter:
    """Rewrites a copy of a graph.

    Args:
        model: as `qdq.prepare` gives it.
        limit: the largest code of a weight.
        per_channel: one scale for each output channel of a product, else one for the whole weight.
    """

    def __init__(self, model: "onnx.ModelProto", limit: int, *, per_channel: bool) -> None:
        import onnx

        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._limit, self._axis = limit, 1 if per_channel else None
        self._constants = {item.name: item for item in self.model.graph.initializer}
        self._added: dict[str, onnx.TensorProto] = {}
        self._ranged: dict[str, list[str]] = {}  # activations whose range is taken, with the tensors that hold it
        self._nodes: list[onnx.NodeProto] = []

    def rewrite(self, kind: Kind | None, products: Sequence[str], tables: Sequence[str]) -> "onnx.ModelProto":
        """The graph with `products` (names of `MatMul` and `Gemm` nodes) and `tables` (names of weights) in 8 bits."""
        for node in self.model.graph.node:
            if node.name in products and kind is not None:
                self._product(node, kind)
            elif node.op_type == "Gather" and node.input[0] in tables:
                self._lookup(node)
            else:
                self._nodes.append(node)
        graph = self.model.graph
        nodes, constants = list(self._nodes), [*graph.initializer, *self._added.values()]
        del graph.node[:]
        graph.node.extend(nodes)
        used = set(_read(graph)) | {value.name for value in graph.output}
        del graph.initializer[:]
        graph.initializer.extend(item for item in constants if item.name in used)
        return self.model

    def _product(self, node: "onnx.NodeProto", kind: Kind) -> None:
        attributes = _attributes(node)
        weight, scale, zero = self._weight(node.input[1], transposed=bool(attributes.get("transB")))
        bias = node.input[2] if len(node.input) > 2 else ""
        out = f"{node.name}_product" if bias else node.output[0]
        if kind == "weights":
            self._add("DequantizeLinear", [weight, scale, zero], [f"{node.name}_weight"], axis=1)
            self._add("MatMul", [node.input[0], f"{node.name}_weight"], [out], name=node.name)
        else:
            values, step, middle = self._range(node.input[0])
            whole, wide, both = (f"{node.name}_{part}" for part in ("integers", "sums", "scale"))
            self._add("MatMulInteger", [values, weight, middle, zero], [whole], name=node.name)
            self._add("Cast", [whole], [wide], to=1)
            self._add("Mul", [step, scale], [both])
            self._add("Mul", [wide, both], [out])
        if bias:
            self._add("Add", [out, bias], [node.output[0]])

    def _range(self, tensor: str) -> list[str]:
        """Codes, scale and zero point of an activation, taken once for all that read it."""
        if tensor not in self._ranged:
            self._ranged[tensor] = [f"{tensor}_{part}" for part in ("codes", "step", "middle")]
            self._add("DynamicQuantizeLinear", [tensor], self._ranged[tensor])
        return self._ranged[tensor]

    def _weight(self, name: str, *, transposed: bool) -> tuple[str, str, str]:
        """Names of codes, [K, N], scales and zero points, made once for all nodes that share the weight."""
        base = f"{name}_transposed" if transposed else name
        names = f"{base}_codes", f"{base}_scale", f"{base}_zero"
        if names[0] not in self._added:
            values = self._values(name)
            codes, scale = scaled(values.T if transposed else values, self._axis, self._limit)
            self._constant(names[0], codes)
            self._constant(names[1], scale)
            self._constant(names[2], np.zeros(scale.shape, np.int8))
        return names

    def _lookup(self, node: "onnx.NodeProto") -> None:
        table, indices = node.input
        codes, scales = f"{table}_codes", f"{table}_scale"
        if codes not in self._added:
            stored, scale = scaled(self._values(table), 0, LIMITS["full"])
            self._constant(codes, stored)
            self._constant(scales, scale[:, None])
        rows, wide, step = (f"{node.name}_{part}" for part in ("rows", "wide", "step"))
        self._add("Gather", [codes, indices], [rows], name=node.name, axis=0)
        self._add("Cast", [rows], [wide], to=1)
        self._add("Gather", [scales, indices], [step], axis=0)
        self._add("Mul", [wide, step], [node.output[0]])

    def _values(self, name: str) -> Array:
        from onnx import numpy_helper

        values: Array = numpy_helper.to_array(self._constants[name])
        return values

    def _constant(self, name: str, value: Array) -> None:
        from onnx import numpy_helper

        self._added[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)

    def _add(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> None:
        from onnx import helper

        self._nodes.append(
            helper.make_node(kind, list(inputs), list(outputs), name or f"{outputs[0]}_{kind}", **attributes)
        )


def products(model: "onnx.ModelProto", least: int = 0) -> list[str]:
    """Names, in graph order, of the `MatMul` and `Gemm` nodes that need no calibration.

    Their weights, [K, N], are constant and have at least `least` elements.
    """
    constants = {item.name: item for item in model.graph.initializer}
    found = []
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") and _plain(node) else None
        if weight is not None and len(weight.dims) == 2 and weight.data_type == 1 and math.prod(weight.dims) >= least:
            found.append(node.name)
    return found


def tables(model: "onnx.ModelProto", least: int) -> list[str]:
    """Names of float tables, [rows, width], of `least` elements or more, of which nothing is read but rows.

    A table that a product reads too (a tied output layer) stays as it is: it would be stored twice.
    """
    readers: dict[str, list[str]] = {}
    for name, kind in _readers(model.graph):
        readers.setdefault(name, []).append(kind)
    return [
        item.name
        for item in model.graph.initializer
        if item.data_type == 1
        and len(item.dims) == 2
        and math.prod(item.dims) >= least
        and set(readers.get(item.name, ())) == {"Gather"}
    ]


def _plain(node: "onnx.NodeProto") -> bool:
    """Whether a `Gemm` is a product and a sum, without factors."""
    attributes = _attributes(node)
    return not attributes.get("transA") and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _readers(graph: "onnx.GraphProto", inner: str = "") -> Iterator[tuple[str, str]]:
    """(tensor, who reads it): the operator, or for what this module must not touch, another word."""
    for value in graph.output:
        yield value.name, "output"
    for node in graph.node:
        first = node.op_type == "Gather" and not inner and not _attributes(node).get("axis")
        for position, name in enumerate(node.input):
            yield name, "Gather" if first and position == 0 else "other"
        for attribute in node.attribute:
            for nested in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _readers(nested, "nested")


def _read(graph: "onnx.GraphProto") -> Iterator[str]:
    return (name for name, _ in _readers(graph))
