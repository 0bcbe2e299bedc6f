"""Static INT8: accuracy in the runtime that serves, replay to the same bytes, fusion, and what is refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from headway.compress import qdq
from headway.compress.quantize import Quantize, QuantizeConfig, match
from headway.compress.step import GraphStep, StepContext
from headway.core.errors import ConfigError, DataError, FormatError, TaskError
from headway.core.machine import Machine
from headway.core.tensors import Array, TensorSpec
from headway.export.onnx import OnnxExport
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.tasks import Arrays, Parts, Task

Export = Callable[[nn.Module, Mapping[str, Array]], Path]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    def write(module: nn.Module, example: Mapping[str, Array]) -> Path:
        OnnxExport().write(module, example, ("logits",), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


@pytest.fixture
def graph(export: Export, trained: nn.Module, task: Task) -> Path:
    return export(trained, task.parts.train.batch(np.arange(2))[0])


def machine(context: StepContext, *sets: str) -> StepContext:
    """The same context for another machine."""
    return replace(context, machine=Machine(**{**context.machine.model_dump(), "instruction_sets": sets}))


def with_calibration(context: StepContext, inputs: Mapping[str, Array]) -> StepContext:
    part = Arrays(inputs, np.zeros(len(next(iter(inputs.values()))), np.int64))
    return replace(context, task=replace(context.task, parts=Parts(part, part, part, part)))


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_accuracy_holds_the_file_shrinks_and_the_record_writes_the_same_bytes(
    graph: Path, context: StepContext, accuracy: Callable[[Path], float], tmp_path: Path, calibration: str
) -> None:
    step: GraphStep = Quantize(QuantizeConfig(calibration=calibration, weight_range="reduced"))
    out, again = tmp_path / "int8.onnx", tmp_path / "again.onnx"
    record = step.apply(graph, out, context)
    assert accuracy(out) > accuracy(graph) - 0.015
    assert out.stat().st_size < 0.4 * graph.stat().st_size
    step.replay(graph, again, json.loads(json.dumps(record)))
    assert again.read_bytes() == out.read_bytes()
    assert step.precision == "int8"


def test_the_machine_chooses_range_and_sign(graph: Path, context: StepContext, tmp_path: Path) -> None:
    largest = {}
    for sets in (("avx2",), ("avx2", "avx512_vnni"), ("asimd",)):
        record = Quantize().apply(graph, tmp_path / "int8.onnx", machine(context, *sets))
        model = onnx.load(tmp_path / "int8.onnx")
        stored = [numpy_helper.to_array(i) for i in model.graph.initializer if i.name.endswith("weight_quantized")]
        kinds = {i.data_type for i in model.graph.initializer if i.name.startswith("relu") and "zero_point" in i.name}
        largest[sets[-1]] = (max(int(np.abs(w.astype(int)).max()) for w in stored), kinds, record["reason"])
    assert largest["avx2"][:2] == (64, {TensorProto.UINT8})
    assert largest["avx512_vnni"][:2] == (127, {TensorProto.UINT8})
    assert largest["asimd"][:2] == (127, {TensorProto.INT8})
    assert "VNNI" in largest["avx2"][2]


def test_first_and_last_stay_in_float_and_everything_between_is_fused(
    graph: Path, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    weighted = qdq.weighted_nodes(qdq.prepare(graph))
    record = Quantize().apply(graph, out, context)
    assert record["form"]["float_nodes"] == [weighted[0], weighted[-1]]
    assert qdq.fusion(out) == qdq.Fusion(integer=len(weighted) - 2, floating=2, conversions=2)
    Quantize(QuantizeConfig(keep_fp32=())).apply(graph, out, context)
    made = qdq.fusion(out)
    assert (made.integer, made.floating) == (len(weighted), 0)
    Quantize(QuantizeConfig(keep_fp32=(weighted[2],))).apply(graph, out, context)
    assert qdq.fusion(out).floating == 1


def test_the_three_calibrations_give_three_ranges_and_three_files(
    graph: Path, context: StepContext, tmp_path: Path
) -> None:
    """ONNX Runtime's own entropy, at its 128 bins, gives the ranges of min-max on every tensor."""
    found, files = {}, set()
    for calibration in ("minmax", "percentile", "entropy"):
        config = QuantizeConfig(calibration=calibration, percentile=99.9)
        found[calibration] = Quantize(config).apply(graph, tmp_path / "int8.onnx", context)["ranges"]
        files.add((tmp_path / "int8.onnx").read_bytes())
    assert len(files) == 3
    for one, other in (("minmax", "percentile"), ("minmax", "entropy"), ("percentile", "entropy")):
        differ = sum(found[one][name] != found[other][name] for name in found[one])
        assert differ > len(found[one]) / 2, f"{one} and {other}"


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_have_a_scale_for_each_output_channel(
    graph: Path, context: StepContext, tmp_path: Path, per_channel: bool
) -> None:
    Quantize(QuantizeConfig(per_channel=per_channel)).apply(graph, tmp_path / "int8.onnx", context)
    stored = {item.name: item for item in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    weights = [name for name in stored if name.endswith("weight_quantized")]
    assert weights
    for name in weights:
        scales = numpy_helper.to_array(stored[name.replace("_quantized", "_scale")])
        assert scales.size == (stored[name].dims[0] if per_channel else 1)
        assert len(set(scales.ravel().tolist())) > scales.size // 2


class Residual(nn.Module):
    """A residual block with a depthwise convolution and a concatenation, which the quantizer must carry through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6())
        self.wide = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.relu(self.wide(self.deep(x)) + x)
        return self.head(torch.cat([x, y], 1).mean((2, 3)))


def test_residual_depthwise_and_concatenation_run_in_integers(
    export: Export, context: StepContext, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    inputs = {"x": np.random.default_rng(0).random((64, 3, 12, 12), dtype=np.float32)}
    file, out = export(Residual(), {"x": inputs["x"][:2]}), tmp_path / "int8.onnx"
    Quantize(QuantizeConfig(keep_fp32=())).apply(file, out, with_calibration(context, inputs))
    kinds = [node.op_type for node in qdq._optimized(out, "extended").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert {"QLinearAdd", "QLinearConcat"} <= set(kinds)
    assert not {"Conv", "Add", "Relu", "Clip", "Concat"} & set(kinds)
    want, have = (OnnxRuntime().load(f).run(inputs)["logits"] for f in (file, out))
    assert np.abs(have - want).max() < 0.1 * np.abs(want).max()


def matmul_model(file: Path, *, weights: bool = True, opset: int = 17) -> Path:
    """ONNX that never was a torch module: x @ w, or x @ x^T."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])] if weights else []
    nodes = nodes or [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    w = numpy_helper.from_array(np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32), "w")
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [w] if weights else [],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), file)
    return file


@pytest.mark.parametrize("opset", [11, 17])
def test_a_graph_without_a_module_behind_it_is_quantized(context: StepContext, tmp_path: Path, opset: int) -> None:
    file, out = matmul_model(tmp_path / "m.onnx", opset=opset), tmp_path / "int8.onnx"
    inputs = {"whatever": np.random.default_rng(1).random((100, 32), dtype=np.float32)}
    Quantize(QuantizeConfig(keep_fp32=(), calibration="minmax")).apply(file, out, with_calibration(context, inputs))
    want, have = (OnnxRuntime().load(f).run({"x": inputs["whatever"]})["y"] for f in (file, out))
    assert qdq.fusion(out).integer == 1
    assert np.abs(have - want).max() < 0.05 * np.abs(want).max()


def test_nothing_to_quantize(context: StepContext, tmp_path: Path) -> None:
    bare = matmul_model(tmp_path / "bare.onnx", weights=False)
    with pytest.raises(TaskError, match="nothing to quantize"):
        Quantize().apply(bare, tmp_path / "out.onnx", context)
    with pytest.raises(TaskError, match="nothing left to quantize"):
        Quantize().apply(matmul_model(tmp_path / "one.onnx"), tmp_path / "out.onnx", context)
    assert not (tmp_path / "out.onnx").exists()


def test_a_node_that_is_not_there(graph: Path, context: StepContext, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no node is called 'frist'"):
        Quantize(QuantizeConfig(keep_fp32=("frist",))).apply(graph, tmp_path / "out.onnx", context)


def test_what_is_no_model(context: StepContext, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07 not a model")
    with pytest.raises(FormatError):
        Quantize().apply(tmp_path / "broken.onnx", tmp_path / "out.onnx", context)


def test_nan_in_the_calibration_data(graph: Path, context: StepContext, tmp_path: Path) -> None:
    bad = with_calibration(context, {"image": np.full((4, 1, 8, 8), np.nan, np.float32)})
    with pytest.raises(DataError, match="NaN or infinity"):
        Quantize().apply(graph, tmp_path / "out.onnx", bad)
    empty = with_calibration(context, {"image": np.zeros((0, 1, 8, 8), np.float32)})
    with pytest.raises(DataError, match="no calibration data"):
        Quantize().apply(graph, tmp_path / "out.onnx", empty)


def test_inputs_are_matched_by_name_then_by_position() -> None:
    specs = tuple(TensorSpec(name=n, datatype="FP32", shape=(-1, s)) for n, s in (("a", 2), ("b", 3)))
    a, b = np.ones((4, 2), np.float32), np.ones((4, 3), np.float32)
    assert match(specs, {"b": b, "a": a})["a"] is a
    assert match(specs, {"left": a, "right": b})["b"] is b
    with pytest.raises(TaskError, match=r"input 'a' takes FP32 \[-1, 2\], the task gives float32 \[4, 3\]"):
        match(specs, {"left": b, "right": a})
    with pytest.raises(TaskError, match="float64"):
        match(specs, {"a": a.astype(np.float64), "b": b})
    with pytest.raises(TaskError, match=r"takes \['a', 'b'\], the task gives \['a'\]"):
        match(specs, {"a": a})


def test_nothing_is_printed_or_logged(
    graph: Path,
    context: StepContext,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    capfd.readouterr()
    Quantize().apply(graph, tmp_path / "out.onnx", context)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
