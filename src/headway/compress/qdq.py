"""8-bit ONNX graphs: made ready, described by a `Form`, written, and looked at as ONNX Runtime sees them.

Where ranges come from calibration, QuantizeLinear and DequantizeLinear (QDQ) stand around what runs in 8 bits. ONNX
Runtime's quantizer inserts the pairs and quantizes the weights; what it is given, and why, stands in
`docs/decisions/0011-int8-range.md` and `0012-calibration.md`. The other forms are `rewrite.py`'s.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from headway.compress.calibration import Range
from headway.compress.rewrite import LIMITS, Rewriter, products
from headway.core.errors import ConfigError, FormatError, TaskError
from headway.core.files import write_atomic
from headway.export.quiet import quiet
from headway.runtimes.formats import require_whole_onnx
from headway.runtimes.onnx_runtime import OnnxRuntime

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "Gemm", "MatMul")
# What ONNX Runtime's CPU kernels compute or move in 8 bits. Softmax, normalizations and reductions stay in float:
# quantizing them costs accuracy, and leaves conversions that cost more than they save.
QUANTIZED = (
    *WEIGHTED, "Add", "AveragePool", "Clip", "Concat", "Flatten", "Gather", "GlobalAveragePool", "LeakyRelu", "MaxPool",
    "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
_OPSET = 13  # the first with one scale for each channel


@dataclass(frozen=True)
class Form:
    """The 8-bit form of a graph.

    Attributes:
        mode: `static` ranges come with the graph, `dynamic` ones are taken at run time, `weights` alone are in 8 bits.
        weight_range: `reduced` weights span [-64, 64], `full` ones [-127, 127].
        activations: unsigned or signed.
        per_channel: one weight scale for each output channel.
        float_nodes: names of the nodes that stay in 32 bits.
        tables: names of the embedding tables that are stored in 8 bits, with one scale a row.
    """

    mode: Literal["static", "dynamic", "weights"]
    weight_range: Literal["full", "reduced"]
    activations: Literal["u8", "s8"]
    per_channel: bool
    float_nodes: tuple[str, ...]
    tables: tuple[str, ...] = ()


def prepare(file: Path) -> "onnx.ModelProto":
    """The graph as the quantizer wants it: batch normalization folded, constants computed, shapes known, nodes named.

    Raises:
        FormatError: not an ONNX model that ONNX Runtime loads, one with weights in other files, or one that no opset
            conversion brings to opset 13.
        TaskError: it is in 8 bits already.
    """
    import onnx

    if require_whole_onnx(file).precision == "int8":
        raise TaskError("the graph is in 8 bits already", where=str(file), remedy="Leave the quantize step out.")

    OnnxRuntime().load(file).close()  # says in a user's terms what is wrong with a file
    model = _optimized(file, "basic")
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if version < _OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            raise FormatError(
                f"opset {version} has no 8 bits for each channel, and the model cannot be converted to {_OPSET}",
                where=str(file),
                remedy="Export it again with a newer opset.",
            ) from error
    model = onnx.shape_inference.infer_shapes(model)
    taken: set[str] = set()
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{position}" if node.name in taken or not node.name else node.name
        taken.add(node.name)
    return model


def weighted_nodes(model: "onnx.ModelProto") -> list[str]:
    """Names of the nodes that multiply by constant weights, in graph order."""
    constants = {item.name for item in model.graph.initializer}
    return [n.name for n in model.graph.node if n.op_type in WEIGHTED and any(name in constants for name in n.input)]


def require_weighted(model: "onnx.ModelProto", weighted: Sequence[str], kinds: Sequence[str]) -> None:
    """Refuse a graph without nodes to quantize.

    Raises:
        TaskError: there are none of `kinds`, or their weights are not in 32 bits.
    """
    import onnx

    half = [item.name for item in model.graph.initializer if item.data_type in (10, 11, 16)]
    if half and not any(item.data_type == onnx.TensorProto.FLOAT for item in model.graph.initializer):
        kind = next(item.data_type for item in model.graph.initializer if item.name == half[0])
        raise TaskError(
            f"the weights are {onnx.TensorProto.DataType.Name(kind)}, and 8 bits are made of 32-bit ones",
            where=half[0],
            remedy="Bring the model in FP32.",
        )
    if not weighted:
        raise TaskError(
            f"no {', '.join(kinds)} with constant weights: there is nothing to quantize",
            remedy="Leave the quantize step out.",
        )


def float_nodes(model: "onnx.ModelProto", weighted: Sequence[str], keep: Sequence[str]) -> tuple[str, ...]:
    """The nodes that `keep` speaks of: `first` and `last` are the first and last of `weighted`, the rest are names.

    Raises:
        ConfigError: no node has such a name.
    """
    names = {node.name for node in model.graph.node}
    kept = []
    for word in keep:
        name = {"first": weighted[0], "last": weighted[-1]}.get(word, word)
        if name not in names:
            raise ConfigError(
                f"no node is called {word!r}",
                where="quantize.keep_fp32",
                remedy=f"Weighted: {', '.join(weighted[:20])}",
            )
        kept.append(name)
    return tuple(dict.fromkeys(kept))


def activations(model: "onnx.ModelProto", excluded: Sequence[str]) -> list[str]:
    """The float tensors, weights aside, that enter or leave a node to be quantized."""
    from onnx import TensorProto

    floats = {
        value.name
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    } - {item.name for item in model.graph.initializer}
    touched = (
        name
        for node in model.graph.node
        if node.op_type in QUANTIZED and node.name not in excluded
        for name in (*node.input, *node.output)
    )
    return [name for name in dict.fromkeys(touched) if name in floats]


def exposing(model: "onnx.ModelProto", tensors: Sequence[str]) -> "onnx.ModelProto":
    """A copy whose outputs are `tensors`, but for those that are inputs."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    inputs = {value.name for value in model.graph.input}
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del exposed.graph.output[:]
    exposed.graph.output.extend(known[name] for name in tensors if name not in inputs)
    return exposed


def write(model: "onnx.ModelProto", out: Path, ranges: Mapping[str, Range], form: Form) -> None:
    """Write `model`, as `prepare` gave it, in 8 bits; the same arguments write the same bytes.

    Args:
        model: what to write.
        out: the file.
        ranges: of activations, by tensor; those of the nodes that a static form quantizes.
        form: what is quantized, and how.
    """
    import onnx

    kind, chosen = None, []
    if form.mode == "static":
        model = _with_pairs(model, ranges, form)
    else:
        kind = form.mode
        chosen = [name for name in products(model) if name not in form.float_nodes]
    rewriter = Rewriter(model, LIMITS[form.weight_range], per_channel=form.per_channel)
    quantized = rewriter.rewrite(kind, chosen, form.tables)
    onnx.checker.check_model(quantized)
    write_atomic(out, quantized.SerializeToString(deterministic=True))


def _with_pairs(model: "onnx.ModelProto", ranges: Mapping[str, Range], form: Form) -> "onnx.ModelProto":
    """QDQ around every node that has an 8-bit kernel."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    measured = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    lookups = [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in form.tables]
    with quiet():
        quantizer = QDQQuantizer(
            copy,
            per_channel=form.per_channel,
            reduce_range=form.weight_range == "reduced",
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if form.activations == "u8" else QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, measured),
            nodes_to_quantize=[],
            nodes_to_exclude=[*form.float_nodes, *lookups],
            op_types_to_quantize=list(QUANTIZED),
            # A product of two activations (attention) stays in float: quantized, a six-layer BERT's outputs turned to a
            # cosine of 0.92 with the original's.
            extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantized: onnx.ModelProto = quantizer.model.model
    return quantized


@dataclass(frozen=True)
class Fusion:
    """What ONNX Runtime makes of a QDQ graph here.

    Attributes:
        integer: weighted nodes that run in 8 bits.
        floating: weighted nodes that run in 32 bits.
        conversions: QuantizeLinear and DequantizeLinear nodes that are left to be executed.
    """

    integer: int
    floating: int
    conversions: int


def fusion(file: Path) -> Fusion:
    """Count what ONNX Runtime's optimizer made of the QDQ pairs; unfused ones are where INT8 loses its speed."""
    kinds = Counter(node.op_type for node in _optimized(file, "extended").graph.node)
    integer = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits")
    floating = (*WEIGHTED, "FusedConv", "FusedGemm", "FusedMatMul")
    return Fusion(
        integer=sum(kinds[kind] for kind in integer),
        floating=sum(kinds[kind] for kind in floating),
        conversions=kinds["QuantizeLinear"] + kinds["DequantizeLinear"],
    )


def _optimized(file: Path, level: Literal["basic", "extended"]) -> "onnx.ModelProto":
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(written)
        options.add_session_config_entry("optimization.disable_specified_optimizers", "WeightBiasQuantization")
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC if level == "basic" else levels.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return onnx.load(written)
