"""ONNX Runtime: what loads, what is refused and how, and what a session says of itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.runtimes.shared import answers_of_threads

from headway.core.errors import FormatError, MissingDependencyError, RequestError
from headway.core.tensors import TensorSpec
from headway.runtimes.onnx_runtime import OnnxRuntime

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def model(
    *, opset: int = 17, op: str = "MatMul", outside: str | None = None, kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    weights = numpy_helper.from_array(WEIGHTS, "weights")
    if outside is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=outside)
    graph = helper.make_graph(
        [helper.make_node(op, ["input", "weights"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("input", kind, ["batch", 4])],
        [helper.make_tensor_value_info("logits", kind, ["batch", 3])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def write(path: Path, content: onnx.ModelProto | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def test_specs_come_from_the_file_with_named_dimensions(tmp_path: Path) -> None:
    session = OnnxRuntime().load(write(tmp_path / "m.onnx", model()))
    assert session.inputs == (TensorSpec(name="input", datatype="FP32", shape=(-1, 4), dims=("batch", "")),)
    assert session.outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, 3), dims=("batch", "")),)
    assert session.provider == "CPUExecutionProvider"


def test_it_computes_what_numpy_computes_at_any_batch(tmp_path: Path) -> None:
    session = OnnxRuntime().load(write(tmp_path / "m.onnx", model()), threads=2)
    for rows in (1, 2, 33):
        value = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        np.testing.assert_allclose(session.run({"input": value})["logits"], value @ WEIGHTS, rtol=1e-5)


def test_threads_share_a_session(tmp_path: Path) -> None:
    session = OnnxRuntime().load(write(tmp_path / "m.onnx", model()))
    values = [np.full((3, 4), number, np.float32) for number in range(4)]
    assert session.thread_safe
    assert answers_of_threads(session, "input", values, [value @ WEIGHTS for value in values]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of memory")
def test_weights_are_held_once(tmp_path: Path) -> None:
    count, shape = 20, (256, 256, 3, 3)  # 47 MB
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), f"w{n}") for n in range(count)]
    names = ["x", *(f"h{n}" for n in range(count - 1)), "y"]
    nodes = [helper.make_node("Conv", [names[n], f"w{n}"], [names[n + 1]]) for n in range(count)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 256, None, None]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    file = write(tmp_path / "m.onnx", whole)
    program = (
        "import sys; from pathlib import Path; from headway.measure.memory import resident;"
        "from headway.runtimes.onnx_runtime import OnnxRuntime;"
        "OnnxRuntime().available(); before = resident('VmRSS');"
        "session = OnnxRuntime().load(Path(sys.argv[1])); print(resident('VmRSS') - before)"
    )
    told = subprocess.run([sys.executable, "-c", program, file], check=True, capture_output=True, text=True)
    assert float(told.stdout) < 1.5 * count * np.prod(shape) * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No graph|no graph|parsing failed"),
        (b"hello", "parsing failed"),
        (b"\x80\x04\x95pickle", "parsing failed"),
        (model().SerializeToString()[:60], "parsing failed"),
        (model(opset=99), "Opset 99"),
        (model(op="NoSuchOperator"), "NoSuchOperator"),
        (model(outside="/etc/passwd"), "Absolute path not allowed"),
        (model(outside="../../etc/passwd"), "escapes model directory"),
    ],
)
def test_what_is_no_model_is_one_clear_error(
    tmp_path: Path, content: onnx.ModelProto | bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        OnnxRuntime().load(write(tmp_path / "m.onnx", content))
    assert caught.value.where == str(tmp_path / "m.onnx")
    assert "onnxruntime_src" not in caught.value.message
    assert "\n" not in caught.value.message
    assert capfd.readouterr().err == ""


def test_a_missing_file_and_a_missing_provider(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such model file"):
        OnnxRuntime().load(tmp_path / "none.onnx")
    assert not OnnxRuntime().available("cuda").ready
    assert OnnxRuntime().available().ready
    with pytest.raises(MissingDependencyError, match="no provider for cuda"):
        OnnxRuntime().load(write(tmp_path / "m.onnx", model()), device="cuda")


def test_a_model_that_is_no_function_of_tensors_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["input"], ["list"])],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)],
    )
    path = write(
        tmp_path / "m.onnx", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    )
    with pytest.raises(FormatError, match="cannot be served"):
        OnnxRuntime().load(path)


def test_values_that_the_model_refuses_are_the_callers_mistake(tmp_path: Path) -> None:
    session = OnnxRuntime().load(write(tmp_path / "m.onnx", model()))
    with pytest.raises(RequestError, match="refuses these inputs"):
        session.run({"input": np.ones((1, 5), np.float32)})


def test_text_goes_in_as_bytes_or_str_and_must_be_utf8(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])],
        "graph",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["batch"])],
    )
    path = write(
        tmp_path / "m.onnx", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    )
    session = OnnxRuntime().load(path)
    for value in (np.array(["ä".encode(), b"b"], dtype=object), np.array(["ä", "b"])):
        assert session.run({"text": value})["same"].tolist() == ["ä", "b"]
    with pytest.raises(RequestError, match="not UTF-8"):
        session.run({"text": np.array([b"\xff"], dtype=object)})


def test_a_closed_session_does_not_run(tmp_path: Path) -> None:
    session = OnnxRuntime().load(write(tmp_path / "m.onnx", model()))
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.run({"input": np.ones((1, 4), np.float32)})
