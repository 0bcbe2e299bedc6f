"""The models that servers are measured with. The two CNNs are seeded random numbers: only their cost matters."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from headway.core.tensors import Array

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("HEADWAY_BENCH_HOME", Path.home() / ".cache" / "headway-bench"))
ROWS = 64  # different requests, sent in turn


class Model(NamedTuple):
    """A model with one FP32 input and one FP32 output.

    Attributes:
        name: as it stands in URLs.
        served: the ONNX file, or the bundle's folder.
        file: the ONNX file itself.
        input: name of its input.
        row: shape of one row.
    """

    name: str
    served: Path
    file: Path
    input: str
    row: tuple[int, ...]

    def rows(self, count: int = ROWS) -> Array:
        """Different inputs, always the same ones: [count, *row]."""
        return np.random.default_rng(1).random((count, *self.row), dtype=np.float32)

    def session(self) -> onnxruntime.InferenceSession:
        """ONNX Runtime itself, on one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(str(self.file), options, providers=["CPUExecutionProvider"])


def small_cnn() -> Model:
    """About 0.17 ms a row on one thread: what serving costs beside it shows."""
    return _cnn("cnn", (16, 32, 40, 48))


def large_cnn() -> Model:
    """More than 2 ms a row: what batching wins or loses shows."""
    return _cnn("large", (96, 96, 160, 160))


def digits() -> Model:
    """The digits bundle as `headway ship examples/digits.yaml` seals it; shipped on first use, in about a minute."""
    from headway.bundles.bundle import Bundle

    folder = CACHE / "digits"
    if not folder.exists():
        recipe = ROOT / "examples" / "digits.yaml"
        command = [Path(sys.executable).with_name("headway"), "ship", recipe, "--out", folder]
        subprocess.run(command, env={**os.environ, **headway_home()}, check=True, stdout=sys.stderr)
    bundle = Bundle.open(folder)
    spec = bundle.manifest.inputs[0]
    return Model("digits", folder, bundle.model_file(bundle.manifest.variant()), spec.name, spec.shape[1:])


def headway_home() -> dict[str, str]:
    """Variables that keep a benchmark's keys and registry apart from the user's."""
    return {"HEADWAY_HOME": str(CACHE / "home")}


def _cnn(name: str, widths: tuple[int, ...]) -> Model:
    """3x3 convolutions, halved after every second one, and a linear layer: [batch, 1, 28, 28] -> [batch, 10]."""
    random = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []

    def weight(called: str, *shape: int) -> str:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))  # keeps the activations' scale
        weights.append(numpy_helper.from_array(values.astype(np.float32), called))
        return called

    nodes, x, channels = [], "image", 1
    for i, width in enumerate(widths):
        inputs = [x, weight(f"w{i}", width, channels, 3, 3), weight(f"b{i}", width)]
        nodes += [
            helper.make_node("Conv", inputs, [f"conv{i}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]),
        ]
        x, channels = f"relu{i}", width
        if i % 2:
            nodes.append(helper.make_node("MaxPool", [x], [f"pool{i}"], kernel_shape=[2, 2], strides=[2, 2]))
            x = f"pool{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", weight("w", 10, channels), weight("b", 10)], ["logits"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, name, [image], [logits], weights)
    path = CACHE / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Model(name, path, path, "image", (1, 28, 28))
