"""A full-range 8-bit variant, sealed where VNNI keeps it exact, on a CPU without: it is left out and fp32 serves.

On an emulated Haswell, which has AVX2 and no VNNI, `vpmaddubsw` sums pairs of u8 x s8 products in 16 bits, which
saturate (Intel SDM, volume 2, PMADDUBSW). The bundle is loaded there by the same code that the server runs.
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headway.bundles.golden import Sample
from headway.bundles.manifest import Variant
from headway.bundles.seal import Draft, seal
from headway.core.machine import here
from headway.core.tensors import TensorSpec
from headway.serve.loading import load_bundle

EMULATOR = shutil.which("qemu-x86_64")
WIDTH, OUTPUTS = 256, 32
SCRIPT = """
import json, sys, numpy, headway
from numpy._core._multiarray_umath import __cpu_features__ as cpu
assert cpu["AVX2"] and not cpu["AVX512F"], "the emulated CPU is not the one asked for"
with headway.load(sys.argv[1], threads=1) as model:
    answer = model({"x": numpy.ones((1, 256), numpy.float32)})["y"]
    print(json.dumps({"answer": answer.tolist(), "choice": model.choice.model_dump()}))
"""


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", OUTPUTS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def fp32(path: Path) -> Path:
    """`y = x @ ones`, [n, 256] -> [n, 32]."""
    return save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((WIDTH, OUTPUTS), np.float32)})


def int8(path: Path) -> Path:
    """The same in 8 bits, weights and activations at the end of their ranges: each pair of products saturates."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    constants = {
        "sx": np.float32(1 / 255), "zx": np.uint8(0), "sw": np.float32(1 / 127), "zw": np.int8(0),
        "wq": np.full((WIDTH, OUTPUTS), 127, np.int8),
    }  # fmt: skip
    return save(path, nodes, constants)


@pytest.mark.slow
@pytest.mark.skipif(
    EMULATOR is None or platform.machine() not in ("x86_64", "AMD64"),
    reason="an x86-64 machine with qemu-x86_64 is needed: apt-get install qemu-user",
)
@pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(here().instruction_sets),
    reason="only a machine with VNNI can seal a full-range variant that is right",
)
def test_a_variant_that_saturates_without_vnni_is_left_out_and_fp32_serves(tmp_path: Path, home: Path) -> None:
    values = np.ones((4, WIDTH), np.float32)
    common = {"file": "", "format": "onnx", "runtime": "onnxruntime", "tolerance": {"y": 2.6}}  # 1% of 256
    draft = Draft(
        name="ones",
        version="1",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, WIDTH), dims=("n", "")),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, OUTPUTS), dims=("n", "")),),
        variants=tuple(Variant(id=name, precision=name, **common) for name in ("int8", "fp32")),  # type: ignore[arg-type]
        chosen="int8",
    )
    models = {"fp32": fp32(tmp_path / "fp32.onnx"), "int8": int8(tmp_path / "int8.onnx")}
    sample = Sample({"x": values}, {"y": np.full((4, OUTPUTS), WIDTH, np.float32)})
    bundle = seal(tmp_path / "bundle", draft, models=models, golden=[sample], report="")

    load_bundle(bundle, variant="int8").session.close()  # its golden samples match here

    command = [EMULATOR or "", "-cpu", "Haswell", sys.executable, "-c", SCRIPT, str(bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    np.testing.assert_allclose(told["answer"], WIDTH)
    assert (told["choice"]["variant"], told["choice"]["source"]) == ("fp32", "only")
    assert "differs from its golden output" in told["choice"]["left_out"]["int8"]
    assert "variant left out: it cannot serve here" in done.stderr
