"""Small ONNX graphs that make ONNX Runtime slow for one reason each."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from headway.compress.qdq import Form, activations, prepare, write


def chain(
    path: Path,
    widths: Sequence[int],
    *,
    size: int = 16,
    kernel: int = 3,
    activation: str = "Relu",
    depthwise: bool = False,
    datatype: type = np.float32,
) -> Path:
    """Convolutions one after the other, named `conv0`, ...; input `x` [batch, widths[0], size, size]."""
    draw = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i, (before, width) in enumerate(pairwise(widths)):
        shape = (width, 1 if depthwise else before, kernel, kernel)
        value = (draw.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(datatype)
        weights.append(numpy_helper.from_array(value, f"w{i}"))
        nodes.append(
            helper.make_node(
                "Conv", [last, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[kernel // 2] * 4,
                group=width if depthwise else 1,
            )
        )  # fmt: skip
        nodes.append(helper.make_node(activation, [f"c{i}"], [f"a{i}"], name=f"act{i}"))
        last = f"a{i}"
    return save(path, nodes, weights, ("x", [widths[0], size, size]), (last, [widths[-1], size, size]), datatype)


def products(path: Path, widths: Sequence[int], *, activation: str = "Relu") -> Path:
    """Matrix products one after the other, named `matmul0`, ...; input `x` [batch, widths[0]]."""
    draw = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i, (before, width) in enumerate(pairwise(widths)):
        weights.append(numpy_helper.from_array(draw.normal(size=(before, width)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"], name=f"matmul{i}"))
        nodes.append(helper.make_node(activation, [f"m{i}"], [f"a{i}"], name=f"act{i}"))
        last = f"a{i}"
    return save(path, nodes, weights, ("x", [widths[0]]), (last, [widths[-1]]), np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    takes: tuple[str, list[int]],
    gives: tuple[str, list[int]],
    datatype: type,
) -> Path:
    """Write a graph of one input and one output, whose shapes are without the batch."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(datatype))
    ends = [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, shape in (takes, gives)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def static(path: Path, out: Path, keep: tuple[str, ...] = ()) -> Path:
    """`path` in 8 bits, every activation within [-4, 4]."""
    model = prepare(path)
    ranges = dict.fromkeys(activations(model, keep), (-4.0, 4.0))
    write(model, out, ranges, Form("static", "full", "u8", True, keep))
    return out


def dynamic(path: Path, out: Path) -> Path:
    """`path` by ONNX Runtime's own dynamic quantization, convolutions and all."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, out, weight_type=QuantType.QUInt8, extra_options={"DefaultTensorType": TensorProto.FLOAT})
    return out
