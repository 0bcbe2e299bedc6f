"""Where an operator that a runtime executes comes from: the node of the model's file, and so the same layer elsewhere.

A runtime fuses, splits and renames. What it keeps is a name with an ending, a weight's name, or the name of the tensor
that comes out; from that tensor the way back in the file ends at the layer that made it.
"""

import re
from collections.abc import Iterable

from headway.runtimes.onnx_graph import Graph, Node
from headway.runtimes.profiling import Operator

PRODUCTS = frozenset({
    "Attention", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeMatMul", "FusedConv", "FusedGemm",
    "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearConv",
    "QLinearMatMul",
})  # fmt: skip
"""Kinds that multiply by weights, or may."""

_ENDING = re.compile(
    r"(?:_nchwc|_token_\d+|/duplicated|(?:_output)?_quantized|_quant|_codes|_transposed|_pre_q|/\w+Fusion/?"
    r"|_QuantizeLinear(?:_(?:Output|Input))?|_DequantizeLinear(?:_Output)?)$"
)
_CARRIES = ("DequantizeLinear", "Transpose", "Cast", "Mul")  # between a constant as it is stored and its product
_STEPS = 64  # nodes that the way back may take


def stem(name: str) -> str:
    """A name without the endings that quantizers and ONNX Runtime's optimizer add."""
    while (shorter := _ENDING.sub("", name)) != name and shorter:
        name = shorter
    return name


class Origins:
    """Finds the layers of one model file.

    Args:
        graph: as the file has it.
    """

    def __init__(self, graph: Graph) -> None:
        self._weights = graph.weights
        self._makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._layers: dict[str, Node] = {}  # by every name that they go by
        for node in graph.nodes:
            if node.operator.rpartition(".")[2] in PRODUCTS:
                for name in (node.name, stem(node.name), *map(stem, self._constants(node))):
                    self._layers.setdefault(name, node)

    def of(self, operator: Operator) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names under which other files may know what `operator` computes, exact ones first, and its weights' shape.

        The shape is the file's, as a runtime may store weights otherwise; () where there are none.
        """
        names = [operator.name, *operator.outputs]
        if operator.kind not in PRODUCTS:
            return _aliases(names), ()
        found = self._layer([*names, *operator.weights])
        if found is None:
            return _aliases(names), ()
        constants = self._constants(found)
        shapes = [self._weights[name] for name in constants]
        return _aliases([found.name, *found.outputs, *constants, *names]), max(shapes, key=len, default=())

    def _layer(self, names: Iterable[str]) -> Node | None:
        for name in (spelt for given in names for spelt in (given, stem(given))):
            if name in self._layers:
                return self._layers[name]
            if name in self._makers and (found := self._back(name)) is not None:
                return found
        return None

    def _back(self, tensor: str) -> Node | None:
        """The nearest layer that `tensor` comes from."""
        ahead, seen = [tensor], set[str]()
        while ahead and len(seen) < _STEPS:
            name = ahead.pop(0)
            node = self._makers.get(name)
            if node is None or name in seen:
                continue
            if node.operator.rpartition(".")[2] in PRODUCTS:
                return node
            seen.add(name)
            ahead += node.inputs
        return None

    def _constants(self, node: Node) -> list[str]:
        """The initializers that a layer multiplies by: of two dimensions or more."""
        found = []
        for name in node.inputs:
            while name not in self._weights and name in self._makers and self._makers[name].operator in _CARRIES:
                name = self._makers[name].inputs[0]
            if len(self._weights.get(name, ())) > 1:
                found.append(name)
        return found


def _aliases(names: Iterable[str]) -> tuple[str, ...]:
    exact = [name for name in names if name]
    return tuple(dict.fromkeys([*exact, *map(stem, exact)]))
