"""What is read from an ONNX file's bytes is what the onnx package reads."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from headway.core.errors import FormatError
from headway.runtimes.onnx_file import Value, read_onnx


def save(path: Path, graph: onnx.GraphProto, **options: object) -> Path:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="test"), path, **options)
    return path


def value(name: str, kind: int, shape: list[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def test_a_model(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["g"]),
            helper.make_node("Odd", ["g"], ["y"], domain="com.example"),
        ],
        "net",
        [value("x", TensorProto.FLOAT, ["batch", None, 4]), value("w", TensorProto.FLOAT16, [4, 4])],
        [value("y", TensorProto.FLOAT8E5M2, None)],
        [
            numpy_helper.from_array(np.ones((4, 4), np.float16), "w"),
            helper.make_tensor("unpacked", TensorProto.FLOAT, [2], [1.0, 2.0]),
        ],
    )
    about = read_onnx(save(tmp_path / "m.onnx", graph))
    assert (about.ir_version, about.producer, about.graph) == (9, "test", "net")
    assert about.opsets == {"": 17, "com.example": 3}
    assert about.operators == {"MatMul": 2, "com.example.Odd": 1}
    assert about.inputs == (Value("x", "FP32", ("batch", "?", 4)),)
    assert about.outputs == (Value("y", f"ONNX type {TensorProto.FLOAT8E5M2}", None),)
    assert (about.initializers, about.parameters, about.precision, about.external) == (2, 18, "fp16", [])


def test_external_data_is_found_wherever_it_hides(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["hidden"], ["z"])], "inner", [], [value("z", TensorProto.FLOAT, [300])],
        [numpy_helper.from_array(np.ones(300, np.float32), "hidden")],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], "outer",
        [value("c", TensorProto.BOOL, [])], [value("y", TensorProto.FLOAT, [300])],
        [numpy_helper.from_array(np.ones(300, np.float32), "weights")],
    )  # fmt: skip
    whole = read_onnx(save(tmp_path / "whole.onnx", graph))
    assert whole.external == []
    assert whole.operators == {"If": 1, "Identity": 2}
    apart = save(tmp_path / "apart.onnx", graph, save_as_external_data=True, size_threshold=0)
    assert set(read_onnx(apart).external) == {"weights", "hidden"}


def test_quantized(tmp_path: Path) -> None:
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])], "q",
        [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.UINT8, [1])], [scale, zero],
    )  # fmt: skip
    assert read_onnx(save(tmp_path / "q.onnx", graph)).precision == "int8"


def field(number: int, message: bytes) -> bytes:
    """A field that holds a message, on the wire."""
    size, length = len(message), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + message


def test_graphs_nested_without_end(tmp_path: Path) -> None:
    """The onnx package cannot even write one, so the bytes are made by hand."""
    graph = b""
    for _ in range(5000):
        graph = field(1, field(5, field(6, graph)))  # graph.node.attribute.g
    (tmp_path / "deep.onnx").write_bytes(b"\x08\x09" + field(8, b"\x10\x11") + field(7, graph))
    with pytest.raises(FormatError, match="nested more than 32"):
        read_onnx(tmp_path / "deep.onnx")


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read_onnx(tmp_path / "none.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(FormatError, match="not an ONNX model"):
        read_onnx(tmp_path / "empty.onnx")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(1, 10_000))
def test_damage_is_an_error_or_another_model_and_never_a_crash(linear_onnx: Path, at: int, byte: int, cut: int) -> None:
    data = bytearray(linear_onnx.read_bytes())
    data[at % len(data)] = byte
    damaged = linear_onnx.with_suffix(".damaged")
    damaged.write_bytes(data[: max(1, cut % len(data))])
    with contextlib.suppress(FormatError):
        read_onnx(damaged)
