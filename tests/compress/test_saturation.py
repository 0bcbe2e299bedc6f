"""Saturation of u8 x s8 products on CPUs without VNNI, modelled and then run for real.

`vpmaddubsw`, which ONNX Runtime's AVX2 and AVX-512 kernels use where VNNI is missing, adds two products in 16 bits and
clips the sum (Intel SDM, volume 2, PMADDUBSW). The first tests hold the arithmetic behind `Machine.int8`. The others
run ONNX Runtime itself on an emulated Haswell, which has AVX2 and no VNNI: they tell the same on every machine.
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.step import StepContext
from headway.core.machine import here
from headway.export.onnx import OnnxExport
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.tasks import Arrays, Parts, Task
from headway.tasks.parts import Part
from headway.train.loop import fit

EMULATOR = shutil.which("qemu-x86_64")
emulated = pytest.mark.skipif(
    EMULATOR is None or platform.machine() not in ("x86_64", "AMD64"),
    reason="an x86-64 machine with qemu-x86_64 is needed: apt-get install qemu-user",
)
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
REDUCED, FULL = 64, 127


def vpmaddubsw(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int16]:
    """Products of neighbours, added in pairs and clipped to 16 bits: [N] x [N] -> [N / 2]."""
    products = activations.astype(np.int32) * weights.astype(np.int32)
    return np.clip(products[0::2] + products[1::2], -(2**15), 2**15 - 1).astype(np.int16)


def dot(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> int:
    """As the AVX2 kernel has it: pairs in 16 bits, their sum in 32."""
    return int(vpmaddubsw(activations, weights).astype(np.int32).sum())


def pairs(limit: int) -> st.SearchStrategy[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
    sizes = st.integers(1, 32).map(lambda half: 2 * half)
    return sizes.flatmap(
        lambda size: st.tuples(
            arrays.arrays(np.uint8, size), arrays.arrays(np.int8, size, elements=st.integers(-limit, limit))
        )
    )


@given(pairs(REDUCED))
def test_reduced_weights_never_saturate(values: tuple[NDArray[np.uint8], NDArray[np.int8]]) -> None:
    activations, weights = values
    assert dot(activations, weights) == int(activations.astype(np.int64) @ weights.astype(np.int64))


@pytest.mark.parametrize(("weight", "lost"), [(64, 0), (-64, 0), (65, 383), (127, 32_003), (-127, 32_002)])
def test_one_more_than_reduced_can_saturate(weight: int, lost: int) -> None:
    activations, weights = np.full(2, 255, np.uint8), np.full(2, weight, np.int8)
    assert abs(2 * 255 * weight - dot(activations, weights)) == lost


SCRIPT = """
import sys, numpy, onnxruntime
from numpy._core._multiarray_umath import __cpu_features__ as cpu
assert cpu["AVX2"] and not cpu["AVX512F"], "the emulated CPU is not the one asked for"
model, inputs, outputs = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
numpy.save(outputs, session.run(None, {name: numpy.load(inputs)})[0])
"""


@pytest.fixture
def without_vnni(tmp_path: Path) -> Callable[[Path, NDArray[np.float32]], NDArray[np.float32]]:
    """Runs an ONNX file in ONNX Runtime on an emulated Haswell."""

    def run(model: Path, values: NDArray[np.float32]) -> NDArray[np.float32]:
        inputs, outputs = tmp_path / "in.npy", tmp_path / "out.npy"
        np.save(inputs, values)
        command = [EMULATOR or "", "-cpu", "Haswell", sys.executable, "-c", SCRIPT, *map(str, (model, inputs, outputs))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        answered: NDArray[np.float32] = np.load(outputs)
        return answered

    return run


def native(model: Path, values: NDArray[np.float32]) -> NDArray[np.float32]:
    session = OnnxRuntime().load(model)
    (answered,) = session.run({session.inputs[0].name: values}).values()
    return answered  # type: ignore[return-value]


@emulated
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_the_largest_products_are_halved_at_full_range_and_exact_at_reduced(
    without_vnni: Callable[[Path, NDArray[np.float32]], NDArray[np.float32]],
    context: StepContext,
    tmp_path: Path,
    mode: Literal["static", "dynamic"],
) -> None:
    """Weights and activations at the end of their ranges: 256 products of 1, so every answer is 256."""
    values = np.ones((4, 256), np.float32)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "ones",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(np.ones((256, 32), np.float32), "w")],
    )
    save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "ones.onnx")
    part = Arrays({"x": values}, np.zeros(4, np.int64))
    ones = replace(context, task=replace(context.task, parts=Parts(part, part, part, part)))
    answers = {}
    for weight_range in ("full", "reduced"):
        file = tmp_path / f"{weight_range}.onnx"
        config = QuantizeConfig(
            mode=mode, weight_range=weight_range, keep_fp32=(), calibration="minmax", least_weights=0
        )
        Quantize(config).apply(tmp_path / "ones.onnx", file, ones)
        answers[weight_range] = without_vnni(file, values), native(file, values)
    np.testing.assert_allclose(answers["reduced"][0], 256, rtol=0.01)
    np.testing.assert_allclose(answers["reduced"][1], 256, rtol=0.01)
    np.testing.assert_allclose(answers["full"][0], 256 * 32_767 / (2 * 255 * 127), rtol=0.01)
    if VNNI & set(here().instruction_sets):
        np.testing.assert_allclose(answers["full"][1], 256, rtol=0.01)


@pytest.mark.slow
@emulated
def test_a_trained_network_loses_its_accuracy_at_full_range_and_keeps_it_at_reduced(
    without_vnni: Callable[[Path, NDArray[np.float32]], NDArray[np.float32]],
    task: Task,
    context: StepContext,
    tmp_path: Path,
) -> None:
    """Digits as they are on paper, dark on bright: many activations lie near 255, where the products saturate."""
    names = ("train", "calibration", "selection", "test")
    paper = replace(task, parts=Parts(*(_inverted(getattr(task.parts, name)) for name in names)), augment=None)
    assert paper.model is not None
    torch.manual_seed(0)
    model = paper.model()
    fit(model, paper, context.train)
    inputs, targets = paper.parts.test.batch(np.arange(400))
    values = inputs["image"].astype(np.float32)
    OnnxExport().write(model, {"image": values[:2]}, ("logits",), tmp_path / "fp32.onnx")

    def score(logits: NDArray[np.float32]) -> float:
        return float((logits.argmax(1) == targets).mean())

    original = score(native(tmp_path / "fp32.onnx", values))
    answers = {}
    for weight_range in ("full", "reduced"):
        file = tmp_path / f"{weight_range}.onnx"
        step = Quantize(QuantizeConfig(weight_range=weight_range, keep_fp32=()))
        step.apply(tmp_path / "fp32.onnx", file, replace(context, task=paper))
        answers[weight_range] = without_vnni(file, values), native(file, values)
    assert score(answers["full"][0]) < original - 0.05
    assert score(answers["reduced"][0]) > original - 0.02
    np.testing.assert_array_equal(*answers["reduced"])
    if VNNI & set(here().instruction_sets):
        assert score(answers["full"][1]) > original - 0.02


def _inverted(part: Part) -> Arrays:
    inputs, targets = part.batch(np.arange(len(part)))
    return Arrays({"image": 1 - inputs["image"]}, targets)  # type: ignore[operator]
