"""The health of weights, against what was put into them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from headway.core.errors import FormatError
from headway.runtimes.onnx_weights import Health, read_health

NAN, INF = float("nan"), float("inf")


def save(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], **options: object) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path, **options)
    return path


def tensor(name: str, value: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def by_name(health: Health) -> dict[str, tuple[object, ...]]:
    return {weight.name: tuple(weight)[1:] for weight in health.weights}


def test_numbers_that_are_not_finite_in_every_form(tmp_path: Path) -> None:
    odd = np.array([[1, NAN, -INF], [INF, 0, -3]], np.float32)
    typed = [
        helper.make_tensor(f"typed{kind}", kind, [2, 3], odd.flatten())
        for kind in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    ]
    raw = [tensor("f4", odd), tensor("f2", odd.astype(np.float16)), tensor("f8", odd.astype(np.float64))]
    bits = (odd.view(np.uint32) >> 16).astype(np.uint16)
    raw.append(helper.make_tensor("bf16", TensorProto.BFLOAT16, [2, 3], bits.tobytes(), raw=True))
    whole = [tensor("whole", np.arange(3)), tensor("none", np.zeros((0, 2), np.float32))]
    node = helper.make_node("Identity", ["x"], ["y"])
    health = read_health(save(tmp_path / "m.onnx", [node], [*typed, *raw, *whole]))
    found = by_name(health)
    assert found.pop("none") == ("", (0, 2), 0, 0, 0, 0, 0.0)
    assert set(found) == {weight.name for weight in (*typed, *raw)}
    assert set(found.values()) == {("", (2, 3), 1, 2, 0, 0, 3.0)}
    assert (health.document()["nan"], health.document()["infinite"]) == (8, 16)


@pytest.mark.parametrize(
    ("node", "shape", "dead"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), (4, 3, 2, 2), (1, slice(None))),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (3, 4, 2, 2), (slice(None), 1)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 4), (slice(None), 1)),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), (3, 4), (slice(None), 1)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], alpha=2.0, transB=1), (4, 3), (1, slice(None))),
    ],
)
def test_dead_channels_are_outputs(
    node: onnx.NodeProto, shape: tuple[int, ...], dead: tuple[object, ...], tmp_path: Path
) -> None:
    weights = np.ones(shape, np.float32)
    weights[0, 0] = 0  # some zeros kill no channel
    weights[dead] = 0
    (found,) = read_health(save(tmp_path / "m.onnx", [node], [tensor("w", weights)])).weights
    assert (found.operator, found.channels, found.dead) == (node.op_type, 4, 1)


def test_a_scale_out_of_line_with_its_kind(tmp_path: Path) -> None:
    largest = {"a": 1.0, "b": 2.0, "c": 1.5, "d": 1000.0, "e": 0.001}
    nodes = [helper.make_node("MatMul", ["x", name], [f"y{name}"]) for name in largest]
    nodes.append(helper.make_node("Conv", ["x", "conv"], ["y"]))
    weights = [tensor(name, np.full((2, 2), value, np.float32)) for name, value in largest.items()]
    conv = tensor("conv", np.full((1, 1, 1, 1), 1e6, np.float32))  # the only one of its kind is like itself
    health = read_health(save(tmp_path / "m.onnx", nodes, [*weights, conv]))
    assert health.odd == pytest.approx({"d": 1000 / 1.5, "e": 0.001 / 1.5})


def test_weights_in_other_files_are_counted_and_not_read(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = [tensor("w", np.ones((20, 20), np.float32))]
    path = save(tmp_path / "m.onnx", [node], weights, save_as_external_data=True, size_threshold=0)
    assert (read_health(path).weights, read_health(path).unread) == ((), 1)


def test_bytes_that_do_not_fit_the_shape(tmp_path: Path) -> None:
    short = tensor("w", np.ones((2, 2), np.float32))
    for data in (short.raw_data[:8], short.raw_data[:7]):
        short.raw_data = data
        with pytest.raises(FormatError, match=r"no whole number|elements"):
            read_health(save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], [short]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(1, 10_000))
def test_damage_is_an_error_or_other_numbers_and_never_a_crash(linear_onnx: Path, at: int, byte: int, cut: int) -> None:
    data = bytearray(linear_onnx.read_bytes())
    data[at % len(data)] = byte
    damaged = linear_onnx.with_suffix(".damaged")
    damaged.write_bytes(data[: max(1, cut % len(data))])
    try:
        health = read_health(damaged)
    except FormatError:
        return
    assert all(weight.largest >= 0 for weight in health.weights)
