"""8-bit forms without calibration: dynamic products, stored weights and tables, checked in ONNX Runtime."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from headway.compress import qdq, rewrite
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.step import StepContext
from headway.core.errors import FormatError, TaskError
from headway.core.machine import Machine
from headway.core.tensors import Array
from headway.runtimes.onnx_runtime import OnnxRuntime

VOCABULARY, WIDTH = 300, 64
DRAW = np.random.default_rng(0)


def save(file: Path, nodes: list[onnx.NodeProto], inputs: Mapping[str, int], constants: Mapping[str, Array]) -> Path:
    """A graph from inputs (name -> type, each [n, WIDTH or length]) to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, ["n", None]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


def weight(*shape: int) -> Array:
    return DRAW.normal(size=shape).astype(np.float32)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Words -> table -> three products, of which two read the same values and two share a weight."""
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["x"]),
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("MatMul", ["x", "w3"], ["b"], name="second"),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["d"], axes=[1], keepdims=0),
        helper.make_node("Tanh", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w2", "bias"], ["f"], name="third", transB=1),
        helper.make_node("MatMul", ["f", "w1"], ["g"], name="fourth"),
        helper.make_node("MatMul", ["g", "tiny"], ["y"], name="tiny"),
    ]
    constants = {
        "table": weight(VOCABULARY, WIDTH) * np.geomspace(0.01, 10, VOCABULARY, dtype=np.float32)[:, None],
        "w1": weight(WIDTH, WIDTH),
        "w2": weight(WIDTH, WIDTH) / 8,
        "w3": weight(WIDTH, WIDTH),
        "bias": weight(WIDTH),
        "tiny": weight(WIDTH, 2),
    }
    return save(tmp_path / "text.onnx", nodes, {"words": TensorProto.INT64}, constants)


CONFIG = QuantizeConfig(mode="dynamic", least_weights=1000)
WORDS = DRAW.integers(0, VOCABULARY, (5, 7))


def answer(file: Path, inputs: Mapping[str, Array]) -> Array:
    session = OnnxRuntime().load(file)
    try:
        return session.run(inputs)["y"]
    finally:
        session.close()


def machine(context: StepContext, *sets: str) -> StepContext:
    return replace(context, machine=Machine(**{**context.machine.model_dump(), "instruction_sets": sets}))


def error(file: Path, out: Path) -> float:
    want, have = (answer(f, {"words": WORDS}).astype(np.float64) for f in (file, out))
    return float(np.linalg.norm(have - want) / np.linalg.norm(want))


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_products_and_table_shrink_and_the_record_writes_the_same_bytes(
    text: Path, context: StepContext, tmp_path: Path, mode: str
) -> None:
    out, again = tmp_path / "int8.onnx", tmp_path / "again.onnx"
    step = Quantize(CONFIG.model_copy(update={"mode": mode}))
    record = step.apply(text, out, context)
    assert out.stat().st_size < 0.4 * text.stat().st_size
    assert error(text, out) < 0.06
    assert record["ranges"] == {}
    assert record["form"]["tables"] == ["table"]
    assert record["form"]["float_nodes"] == ["tiny"]
    step.replay(text, again, json.loads(json.dumps(record)))
    assert again.read_bytes() == out.read_bytes()


def test_what_is_shared_is_made_once_and_onnx_runtime_fuses_the_products(
    text: Path, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    Quantize(CONFIG).apply(text, out, context)
    model = onnx.load(out)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["MatMulInteger"], kinds["DynamicQuantizeLinear"]) == (4, 3)
    assert sorted(i.name for i in model.graph.initializer if i.name.endswith("_codes")) == [
        "table_codes", "w1_codes", "w2_transposed_codes", "w3_codes",
    ]  # fmt: skip
    assert qdq.fusion(out).integer == 4
    Quantize(CONFIG.model_copy(update={"mode": "weights"})).apply(text, out, context)
    assert Counter(n.op_type for n in onnx.load(out).graph.node)["DequantizeLinear"] == 4


def test_the_machine_chooses_the_range_of_dynamic_weights(text: Path, context: StepContext, tmp_path: Path) -> None:
    largest = {}
    for sets in ("avx2", "avx512_vnni"):
        Quantize(CONFIG).apply(text, tmp_path / "int8.onnx", machine(context, sets))
        codes = {i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "int8.onnx").graph.initializer}
        largest[sets] = [int(np.abs(codes[n].astype(int)).max()) for n in ("w1_codes", "table_codes")]
    assert largest == {"avx2": [64, 127], "avx512_vnni": [127, 127]}, "no product is made of a table's codes"


def test_each_output_channel_has_its_own_scale(tmp_path: Path, context: StepContext) -> None:
    """Columns of very different sizes: one scale for all of them rounds the small ones away."""
    w = weight(WIDTH, WIDTH) * np.geomspace(1e-3, 1, WIDTH, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    file, out = save(tmp_path / "m.onnx", nodes, {"x": TensorProto.FLOAT}, {"w": w}), tmp_path / "out.onnx"
    x = weight(20, WIDTH)
    errors = []
    for per_channel in (True, False):
        config = CONFIG.model_copy(update={"per_channel": per_channel, "weight_range": "full"})
        Quantize(config).apply(file, out, context)
        want, have = answer(file, {"x": x}), answer(out, {"x": x})
        errors.append(np.abs(have - want)[:, 0].max() / np.abs(want[:, 0]).max())
    assert errors[0] < 0.05
    assert errors[1] > 5 * errors[0]


def test_a_table_is_kept_in_8_bits_by_onnx_runtime_too(text: Path, context: StepContext, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    Quantize(CONFIG).apply(text, out, context)
    loaded = qdq._optimized(out, "extended")
    floats = [i for i in loaded.graph.initializer if i.data_type == TensorProto.FLOAT]
    assert max(np.prod(i.dims, initial=1) for i in floats) < VOCABULARY * WIDTH / 8
    assert [list(i.dims) for i in loaded.graph.initializer if i.name == "table_codes"] == [[VOCABULARY, WIDTH]]


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([64, 127]),
    st.sampled_from([0, 1, None]),
)
def test_codes_are_at_most_half_a_step_away(values: Array, limit: int, axis: int | None) -> None:
    codes, scale = rewrite.scaled(values, axis, limit)
    assert np.abs(codes.astype(int)).max() <= limit
    step = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(2)])
    assert (np.abs(codes * step.astype(np.float64) - values) <= step * 0.501 + 1e-30).all()


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_a_table_alone_is_reason_enough_and_small_ones_are_none(
    tmp_path: Path, context: StepContext, mode: str
) -> None:
    nodes = [helper.make_node("Gather", ["table", "words"], ["y"])]
    file = save(tmp_path / "t.onnx", nodes, {"words": TensorProto.INT64}, {"table": weight(VOCABULARY, WIDTH)})
    config = CONFIG.model_copy(update={"mode": mode})
    Quantize(config).apply(file, tmp_path / "out.onnx", context)
    assert (tmp_path / "out.onnx").stat().st_size < 0.35 * file.stat().st_size
    for update in ({"embeddings": "fp32"}, {"least_weights": 10**6}):
        with pytest.raises(TaskError, match=r"nothing (left )?to quantize"):
            Quantize(config.model_copy(update=update)).apply(file, tmp_path / "out.onnx", context)


def test_a_table_that_a_product_reads_too_stays(tmp_path: Path, context: StepContext) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["x"]),
        helper.make_node("Gemm", ["flat", "table"], ["y"], name="tied", transB=1),
    ]
    nodes.insert(1, helper.make_node("ReduceMean", ["x"], ["flat"], axes=[1], keepdims=0))
    file = save(tmp_path / "t.onnx", nodes, {"words": TensorProto.INT64}, {"table": weight(VOCABULARY, WIDTH)})
    assert rewrite.tables(onnx.load(file), 0) == []
    record = Quantize(CONFIG).apply(file, tmp_path / "out.onnx", context)
    assert record["form"]["tables"] == []
    assert error(file, tmp_path / "out.onnx") < 0.05
    by_column = [helper.make_node("Gather", ["table", "words"], ["y"], axis=1)]
    save(file, by_column, {"words": TensorProto.INT64}, {"table": weight(VOCABULARY, WIDTH)})
    assert rewrite.tables(onnx.load(file), 0) == []


def test_a_convolution_is_left_alone(context: StepContext, tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, 6, 6])],
        [numpy_helper.from_array(weight(64, 16, 3, 3), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "c.onnx")
    with pytest.raises(TaskError, match="no MatMul, Gemm with constant weights"):
        Quantize(CONFIG).apply(tmp_path / "c.onnx", tmp_path / "out.onnx", context)


def test_a_gemm_with_factors_stays_in_float(tmp_path: Path, context: StepContext) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="scaled", alpha=0.5),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="plain"),
    ]
    constants = {"w": weight(WIDTH, WIDTH), "b": weight(WIDTH)}
    file = save(tmp_path / "m.onnx", nodes, {"x": TensorProto.FLOAT}, constants)
    Quantize(CONFIG).apply(file, tmp_path / "out.onnx", context)
    x = weight(9, WIDTH)
    want, have = answer(file, {"x": x}), answer(tmp_path / "out.onnx", {"x": x})
    assert np.abs(have - want).max() < 0.05 * np.abs(want).max()
    assert [n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node].count("MatMulInteger") == 1


def test_what_a_subgraph_reads_is_not_thrown_away(tmp_path: Path, context: StepContext) -> None:
    def branch(name: str, constant: str) -> onnx.GraphProto:
        out = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)]
        return helper.make_graph([helper.make_node("Mul", ["h", constant], [f"{name}_out"])], name, [], out)

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="m"),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["flag"], to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("yes", "w"), else_branch=branch("no", "half")),
    ]
    constants = {"w": weight(WIDTH, WIDTH), "half": np.float32([0.5])}
    file = save(tmp_path / "if.onnx", nodes, {"x": TensorProto.FLOAT}, constants)
    Quantize(CONFIG).apply(file, tmp_path / "out.onnx", context)
    x = weight(WIDTH, WIDTH)
    want, have = answer(file, {"x": x}), answer(tmp_path / "out.onnx", {"x": x})
    assert np.abs(have - want).max() < 0.05 * np.abs(want).max()


def test_what_cannot_be_quantized_is_named(text: Path, tmp_path: Path, context: StepContext) -> None:
    Quantize(CONFIG).apply(text, tmp_path / "int8.onnx", context)
    with pytest.raises(TaskError, match="in 8 bits already"):
        Quantize(CONFIG).apply(tmp_path / "int8.onnx", tmp_path / "out.onnx", context)
    nodes = [helper.make_node("Cast", ["h"], ["y"], to=1), helper.make_node("MatMul", ["half", "w"], ["h"], name="m")]
    nodes = [helper.make_node("Cast", ["x"], ["half"], to=10), nodes[1], nodes[0]]
    constants = {"w": weight(WIDTH, WIDTH).astype(np.float16)}
    file = save(tmp_path / "half.onnx", nodes, {"x": TensorProto.FLOAT}, constants)
    for mode in ("static", "dynamic"):
        with pytest.raises(TaskError, match="the weights are FLOAT16"):
            Quantize(CONFIG.model_copy(update={"mode": mode})).apply(file, tmp_path / "out.onnx", context)


def test_weights_in_another_file_are_refused(text: Path, tmp_path: Path, context: StepContext) -> None:
    onnx.save(onnx.load(text), tmp_path / "split.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    with pytest.raises(FormatError, match="tensors lie in other files"):
        Quantize(CONFIG).apply(tmp_path / "split.onnx", tmp_path / "out.onnx", context)
