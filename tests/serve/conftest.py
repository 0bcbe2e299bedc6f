"""Small ONNX models, sealed into real bundles."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.manifest import Variant
from headway.bundles.seal import Draft, seal
from headway.runtimes.onnx_runtime import OnnxRuntime

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
SealModel = Callable[..., Bundle]


def save(path: Path, graph: onnx.GraphProto) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def linear() -> onnx.GraphProto:
    """`logits = input @ WEIGHTS`, [batch, 4] -> [batch, 3]."""
    return helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )


def lookup() -> onnx.GraphProto:
    """Rows of a table of 10 by index, [batch] -> [batch, 2]: an index past its end makes the run fail."""
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    return helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(table, "table")],
    )


def lengths() -> onnx.GraphProto:
    """The sum of each row, [batch, length] -> [batch, 1], with a length that varies."""
    return helper.make_graph(
        [helper.make_node("ReduceSum", ["input", "axis"], ["total"], keepdims=1)],
        "lengths",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", "length"])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([1]), "axis")],
    )


def texts() -> onnx.GraphProto:
    """Text as it came, [batch] -> [batch]."""
    return helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])],
        "texts",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["batch"])],
    )


def everything() -> onnx.GraphProto:
    """Each numeric datatype as it came: `in_FP16 -> out_FP16` and so on, [batch, 2]."""
    kinds = {
        "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
        "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
        "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
        "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    }  # fmt: skip
    return helper.make_graph(
        [helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in kinds],
        "everything",
        [helper.make_tensor_value_info(f"in_{kind}", number, ["batch", 2]) for kind, number in kinds.items()],
        [helper.make_tensor_value_info(f"out_{kind}", number, ["batch", 2]) for kind, number in kinds.items()],
    )


GRAPHS = {"linear": linear, "lookup": lookup, "lengths": lengths, "texts": texts, "everything": everything}


def golden_input(datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    dims = [2 if dim < 0 else dim for dim in shape]
    if datatype == "BYTES":
        return np.full(dims, "golden")
    codes = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"}
    code = codes.get(datatype) or ("u" if datatype[0] == "U" else "i") + str(int(datatype.lstrip("UINT")) // 8)
    return np.ones(dims, np.dtype(code))


def seal_graph(
    folder: Path, name: str, *, version: str = "1", called: str | None = None, padding: dict[str, float] | None = None
) -> Bundle:
    """Seal one of the graphs above; what it says of padding may be a lie."""
    model = save(folder / f"{name}.onnx", GRAPHS[name]())
    session = OnnxRuntime().load(model)
    inputs = {spec.name: golden_input(spec.datatype, spec.shape) for spec in session.inputs}
    outputs = {n: v.astype(str) if v.dtype == object else v for n, v in session.run(inputs).items()}
    variant = Variant(
        id="fp32", file="", format="onnx", runtime="onnxruntime", precision="fp32",
        tolerance=dict.fromkeys(outputs, 1e-5),
    )  # fmt: skip
    draft = Draft(
        name=called or name, version=version, inputs=session.inputs, outputs=session.outputs,
        variants=(variant,), chosen="fp32", padding=padding or {},
    )  # fmt: skip
    session.close()
    out = folder / "bundles" / f"{draft.name}-{version}"
    return seal(out, draft, models={"fp32": model}, golden=[Sample(inputs, outputs)], report="<p>test</p>")


@pytest.fixture
def sealed(tmp_path: Path, home: Path) -> SealModel:
    """`sealed("linear", version="2")`: see `seal_graph`."""
    return partial(seal_graph, tmp_path)
