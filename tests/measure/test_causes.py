"""Each cause, on a real graph that ONNX Runtime really runs slowly for that reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.measure.graphs import chain, dynamic, products, static

from headway.measure.causes import Cause, Comparison, compare
from headway.measure.join import join
from headway.measure.profile import Layer, Profile, profile
from headway.runtimes.onnx_runtime import OnnxRuntime

pytestmark = pytest.mark.alone


def compared(parent: Path, child: Path) -> Comparison:
    runtime = OnnxRuntime()
    session = runtime.load(parent)
    (spec,) = session.inputs
    session.close()
    values = np.ones([1 if size < 0 else size for size in spec.shape], spec.dtype)
    found = profile(runtime, {"parent": parent, "child": child}, {"x": values}, seconds=0.3)
    return compare(found["parent"], found["child"])


def named(found: Comparison, cause: str) -> Cause:
    (one,) = [it for it in found.causes if it.cause == cause]
    return one


def test_dynamic_quantization_of_convolutions(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [32] * 4, size=32, depthwise=True)
    found = compared(parent, dynamic(parent, tmp_path / "b.onnx"))
    assert found.child.ms > 2 * found.parent.ms
    cause = found.causes[0]
    assert cause.cause == "dynamic quantization"
    assert "3 ConvInteger" in cause.evidence
    assert "3 DynamicQuantizeLinear" in cause.evidence
    assert set(cause.operators[:3]) == {"conv0_quant", "conv1_quant", "conv2_quant"}
    assert "static" in cause.remedy


def test_float_operators_between_conversions(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [32] * 4, size=32, kernel=1, activation="HardSwish")
    found = compared(parent, static(parent, tmp_path / "b.onnx"))
    cause = named(found, "unfused Q/DQ islands")
    assert cause == max(found.causes, key=lambda it: it.ms)
    assert "3 HardSigmoid, which ONNX Runtime computes in 32 bits only" in cause.evidence
    assert {"HardSigmoid_1", "HardSigmoid_4", "HardSigmoid_7"} <= set(cause.operators)
    assert "ReLU" in cause.remedy


def test_a_layer_that_was_kept_in_32_bits(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [16] * 6, size=64, kernel=1)
    found = compared(parent, static(parent, tmp_path / "b.onnx", keep=("conv1", "conv3")))
    cause = named(found, "unfused Q/DQ islands")
    assert "left in 32 bits" in cause.evidence
    assert "fewer in `keep_fp32`" in cause.remedy


def test_channels_that_fill_no_block(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [16, 48, 48, 48])
    found = compared(parent, chain(tmp_path / "b.onnx", [16, 47, 47, 47]))
    cause = found.causes[0]
    assert cause.cause == "misaligned channels"
    assert "47 x 47 x 3 x 3" in cause.evidence
    assert {"conv1", "conv2"} <= set(cause.operators)
    assert "align: auto" in cause.remedy
    again = compared(parent, chain(tmp_path / "c.onnx", [16, 32, 32, 32]))
    assert "misaligned channels" not in [it.cause for it in again.causes]


def test_changes_of_layout(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [16] * 5, size=64, kernel=1)
    found = compared(parent, chain(tmp_path / "b.onnx", [16, 15, 16, 15, 16], size=64, kernel=1))
    cause = named(found, "reformats")
    assert "ReorderOutput" in cause.evidence
    assert all(name.startswith("Reorder") for name in cause.operators)


def test_8_bit_kernels_that_are_slower(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [1] * 4, size=64)
    found = compared(parent, static(parent, tmp_path / "b.onnx"))
    cause = named(found, "slow 8-bit kernels")
    assert "3 QLinearConv" in cause.evidence
    assert "keep_fp32: [conv" in cause.remedy


def test_a_model_that_is_made_of_calls(tmp_path: Path) -> None:
    parent = products(tmp_path / "a.onnx", [16, 16, 16])
    found = compared(parent, static(parent, tmp_path / "b.onnx"))
    assert found.causes[0].cause == "too small"
    assert found.summary.startswith("the parent's run")


def test_time_that_no_step_touched(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [16, 16, 16], activation="Softplus", kernel=1)
    found = compared(parent, static(parent, tmp_path / "b.onnx"))
    cause = found.causes[-1]
    assert cause.cause == "unchanged operators"
    assert "2 Softplus" in cause.evidence
    assert cause.operators[0] in {"act0", "act1"}


def layers(*given: tuple[str, str, float]) -> Profile:
    found = tuple(Layer(name=name, kind=kind, aliases=(name,), ms=ms) for name, kind, ms in given)
    ms = sum(it.ms for it in found)
    return Profile(layers=found, ms=ms, outside_ms=0, recorded_ms=ms, taken_off_ms=0, rows=1, threads=1)


def test_where_no_rule_fits_what_lost_most_is_told() -> None:
    found = compare(layers(("a", "Foo", 1), ("b", "Bar", 1)), layers(("a", "Boo", 3), ("b", "Baz", 1.5)))
    assert found.causes == ()
    assert found.worst[0] == "Boo a: 3.000 ms, where the parent takes 1.000 ms"
    assert "no known cause" in found.summary


@pytest.mark.parametrize("make", [static, dynamic])
def test_no_time_counts_for_two_causes(tmp_path: Path, make: Callable[[Path, Path], Path]) -> None:
    parent = chain(tmp_path / "a.onnx", [8] * 4, activation="HardSwish")
    found = compared(parent, make(parent, tmp_path / "b.onnx"))
    lost = sum(max(0.0, row.lost_ms) for row in join(found.parent, found.child))
    told = [it for it in found.causes if it.cause not in ("too small", "unchanged operators")]
    assert sum(it.ms for it in told) <= lost + 1e-9
