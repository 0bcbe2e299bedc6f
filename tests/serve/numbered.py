"""A model that answers its version's number, twice over, sealed in as many versions as a test wants."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.manifest import Variant
from headway.bundles.seal import Draft, seal
from headway.runtimes.onnx_runtime import OnnxRuntime

SIZE = 4


def numbered(
    folder: Path,
    number: int,
    *,
    name: str = "numbered",
    sealed_as: int | None = None,
    wrong: bool = False,
    width: int = 1,
) -> Bundle:
    """Seal version `number`: `first` and `second` [batch, 1] are both the number, whatever `input` [batch, 4] is.

    Args:
        sealed_as: version in the manifest.
        wrong: whether its golden outputs are another number's.
        width: it holds 16 bytes of weights for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["wide"])]
    nodes.append(helper.make_node("ReduceMax", ["wide"], ["sum"], axes=[1], keepdims=1))
    nodes.append(helper.make_node("Mul", ["sum", "zero"], ["nothing"]))
    nodes += [helper.make_node("Add", ["nothing", "number"], [output]) for output in ("first", "second")]
    weights = {"weights": np.full((SIZE, width), number), "zero": np.zeros(1), "number": np.full(1, number)}
    graph = helper.make_graph(
        nodes,
        "numbered",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", SIZE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 1]) for output in ("first", "second")],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    file = folder / f"{name}-{number}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    session = OnnxRuntime().load(file)
    inputs = {"input": np.ones((2, SIZE), np.float32)}
    outputs = {key: value + wrong for key, value in session.run(inputs).items()}
    variant = Variant(
        id="fp32",
        file="",
        format="onnx",
        runtime="onnxruntime",
        precision="fp32",
        tolerance=dict.fromkeys(outputs, 0.0),
    )
    draft = Draft(name, str(sealed_as or number), session.inputs, session.outputs, (variant,), "fp32")
    session.close()
    out = folder / f"{name}-{number}{'-wrong' * wrong}"
    return seal(out, draft, models={"fp32": file}, golden=[Sample(inputs, outputs)], report="<p>test</p>")
