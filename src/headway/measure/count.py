"""How much an operator computes and moves, from the dimensions of what it read and wrote.

A multiply-add is two operations, as vendors count their peaks and as `torch.utils.flop_counter` does. Dense operators
are counted exactly; elementwise ones, pooling, normalisation and reductions as one operation an element of the larger
side; what only moves values as none. Bytes are those of the tensors: a cache may spare some of them, a kernel that
packs its inputs may move more.
"""

from collections.abc import Callable, Sequence
from math import isqrt, prod
from typing import Literal

from pydantic import BaseModel, ConfigDict

from headway.runtimes.profiling import Operator

Precision = Literal["fp32", "fp16", "int8"]
Dims = tuple[int, ...]
_Given = Sequence[Dims | None]

_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"})
_LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND"})  # which read no more of a table than they write
_MOVES = _VIEWS | _LOOKUPS | {
    "Cast", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "OneHot", "Pad", "Range", "ReorderInput",
    "ReorderOutput", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Upsample",
    "MemcpyFromHost", "MemcpyToHost", "EyeLike", "NonZero",
}  # fmt: skip
_ONE_AN_ELEMENT = frozenset({
    "Abs", "Acos", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "AveragePool", "BatchNormalization", "BiasGelu",
    "BiasSoftmax", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Ceil", "Celu", "Clip", "Cos", "CumSum",
    "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Elu", "EmbedLayerNormalization", "Equal", "Erf", "Exp",
    "FastGelu", "Floor", "Gelu", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNorm",
    "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "InstanceNormalization", "IsInf", "IsNaN", "LRN",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "LpPool", "Max",
    "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "QuantizeLinear", "QuickGelu", "RMSNormalization", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Resize", "Round", "Selu", "Sigmoid", "Sign", "SimplifiedLayerNormalization", "Sin",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub",
    "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "TopK", "Trilu", "Where", "Xor",
})  # fmt: skip
_PREFIXES = ("QLinear", "Fused", "Nhwc", "NhwcFused")
_IN_8_BITS = frozenset({"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention"})
_PRECISIONS: dict[str, Precision] = {"INT8": "int8", "UINT8": "int8", "FP16": "fp16", "BF16": "fp16"}


class Work(BaseModel):
    """What one operator does in a run.

    Attributes:
        operations: floating-point ones, or integer ones where `precision` is `int8`; None where the kind is not known.
        precision: that it computes in.
        weight_bytes: of constants that it reads.
        read_bytes: of activations that it reads.
        written_bytes: that it writes.
    """

    model_config = ConfigDict(frozen=True)

    operations: int | None
    precision: Precision
    weight_bytes: int
    read_bytes: int
    written_bytes: int

    @property
    def bytes(self) -> int:
        """All that it moves."""
        return self.weight_bytes + self.read_bytes + self.written_bytes

    @property
    def intensity(self) -> float | None:
        """Operations a byte; None where either is not known."""
        return self.operations / self.bytes if self.operations is not None and self.bytes else None


def work(operator: Operator, weights: Dims = ()) -> Work:
    """What `operator` did in its last run.

    Args:
        operator: as a runtime's profiler has it.
        weights: dimensions of its weights in the model's file, where the runtime may have padded its own.
    """
    moved = operator.weight_bytes, operator.read_bytes, operator.written_bytes
    if operator.kind in _VIEWS:
        moved = 0, 0, 0
    elif operator.kind in _LOOKUPS:
        weight = min(operator.weight_bytes, operator.written_bytes)
        moved = weight, min(operator.read_bytes, operator.written_bytes), operator.written_bytes
    precision = "int8" if operator.kind in _IN_8_BITS else _PRECISIONS.get(operator.datatype, "fp32")
    return Work(
        operations=operations(operator.kind, operator.given, operator.made, weights if operator.blocked else ()),
        precision=precision,
        weight_bytes=moved[0],
        read_bytes=moved[1],
        written_bytes=moved[2],
    )


def operations(kind: str, given: _Given, made: Sequence[Dims], weights: Dims = ()) -> int | None:
    """Operations of one node; None where the kind, or what it needs to know, is not known.

    Args:
        kind: the operator's name, without its domain.
        given: dimensions of its inputs; None for an absent one.
        made: dimensions of its outputs.
        weights: a convolution's, where those in `given` are padded.
    """
    if kind in _DENSE:
        try:
            return _DENSE[kind](given, made, weights)
        except (IndexError, TypeError, ZeroDivisionError):  # an input that it needs is absent
            return None
    plain = {kind, *(kind.removeprefix(prefix) for prefix in _PREFIXES)}
    if plain & _ONE_AN_ELEMENT:
        return max((prod(dims) for dims in (*given, *made) if dims is not None), default=0)
    return 0 if plain & _MOVES else None


def _at(given: _Given, index: int) -> Dims:
    dims = given[index]
    if dims is None:
        raise TypeError
    return dims


def _convolution(index: int) -> "_Rule":
    """Weights [out, in / groups, *kernel] at `index`; the output may have its channels first, last or in blocks."""

    def rule(given: _Given, made: Sequence[Dims], weights: Dims) -> int:
        stored = _at(given, index)
        return 2 * (prod(made[0]) // stored[0]) * prod(weights or stored)

    return rule


def _transposed(given: _Given, made: Sequence[Dims], weights: Dims) -> int:
    """Weights [in, out / groups, *kernel]: every input element meets all but their first dimension."""
    return 2 * prod(_at(given, 0)) * prod(_at(given, 1)[1:])


def _product(index: int) -> "_Rule":
    """Two matrices, or batches of them, in any order of dimensions: the other factor is at `index`."""

    def rule(given: _Given, made: Sequence[Dims], weights: Dims) -> int | None:
        one, other, out = _at(given, 0), _at(given, index), made[0]
        inner = _inner(one, other, out)
        return None if inner is None else 2 * prod(out) * inner

    return rule


def _inner(one: Dims, other: Dims, out: Dims) -> int | None:
    """The dimension that is summed over.

    From the numbers of elements, b M K and b K N for an output of b M N: that holds whichever sides are transposed.
    """
    if not prod(out):
        return 0
    if len(one) == 1 or len(other) == 1:
        return one[-1] if len(one) == 1 else other[0]
    rows, columns = out[-2] if len(out) > 1 else 1, out[-1]
    batch = prod(out) // (rows * columns)
    for left, right in ((batch, batch), (batch, 1), (1, batch)):
        inner = isqrt(prod(one) * prod(other) // (left * right * rows * columns))
        if left * rows * inner == prod(one) and right * inner * columns == prod(other):
            return inner
    return one[-1] if one[-1] in other[-2:] else None  # batches of which each side repeats some


def _packed(given: _Given, made: Sequence[Dims], weights: Dims) -> int:
    """Weights of fewer than 8 bits, whose stored dimensions say nothing: [..., K] in, [..., N] out."""
    return 2 * prod(made[0]) * _at(given, 0)[-1]


def _attention(given: _Given, made: Sequence[Dims], weights: Dims) -> int:
    """Scores and their product with the values: [batch, (heads,) length, width] of queries, keys and values.

    ONNX Runtime's own fused one takes [batch, length, width] and the projection's weights [width, 3 x out] instead.
    """
    first, second = _at(given, 0), _at(given, 1)
    if len(second) == 2:
        batch, length, _ = first
        projected = 2 * prod(first) * second[1]
        return projected + 4 * batch * length * length * made[0][-1]
    return 2 * second[-2] * (prod(first) + prod(made[0]))


def _recurrent(given: _Given, made: Sequence[Dims], weights: Dims) -> int:
    """[steps, batch, width], weights [directions, gates x hidden, width] and [directions, gates x hidden, hidden]."""
    steps, batch, _ = _at(given, 0)
    return 2 * steps * batch * (prod(_at(given, 1)) + prod(_at(given, 2)))


_Rule = Callable[[_Given, Sequence[Dims], Dims], int | None]
_DENSE: dict[str, _Rule] = {
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "NhwcFusedConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    **dict.fromkeys(
        (
            "DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gemm", "GemmFastGelu",
            "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "TransposeMatMul",
        ),
        _product(1),
    ),
    **dict.fromkeys(("QGemm", "QLinearMatMul"), _product(3)),
    "MatMulNBits": _packed,
    **dict.fromkeys(("Attention", "MultiHeadAttention", "QAttention"), _attention),
    **dict.fromkeys(("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"), _recurrent),
}  # fmt: skip
