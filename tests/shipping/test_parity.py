"""The same answers everywhere: what passes, what fails and where, and what was not run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.seal import Draft, seal
from headway.core.errors import DataError, FormatError
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.openvino import OpenVinoRuntime
from headway.shipping.parity import Parity, page, parity

needs_openvino = pytest.mark.skipif(not OpenVinoRuntime().available().ready, reason="openvino is not installed")
HEADWAY = "from headway.cli.main import main; import sys; sys.argv[0] = 'headway'; main()"


def states(found: Parity) -> dict[tuple[str, str, str], str]:
    return {(line.format, line.runtime, line.device): line.state for line in found.lines}


def wide(path: Path) -> Path:
    """Whole numbers beyond 32 bits in the middle of a graph, which OpenVINO clips on the CPU."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squared"], name="square"),
        helper.make_node("Cast", ["squared"], ["whole"], name="to_whole", to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["y"], name="back", to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "wide", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@needs_openvino
def test_a_sound_model_passes_in_every_format_and_runtime(linear_onnx: Path) -> None:
    found = parity(linear_onnx)
    assert not found.failed
    passed = {key for key, state in states(found).items() if state == "pass"}
    assert passed >= {("onnx", "onnxruntime", "cpu"), ("onnx", "openvino", "cpu"), ("openvino", "openvino", "cpu")}
    assert states(found)["onnx", "onnxruntime", "cann"] == "not run here"
    worst = next(line.worst for line in found.lines if line.runtime == "openvino")
    assert worst is not None
    assert worst.largest <= worst.allowed < 1e-2
    assert worst.agreement == 1.0


def test_a_runtime_that_is_not_installed_neither_passes_nor_fails(
    linear_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = parity(linear_onnx)
    absent = [line for line in found.lines if line.state == "not installed"]
    assert all("openvino is not installed" in line.why for line in absent)
    assert not found.failed


@needs_openvino
def test_what_fails_names_the_first_layer(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([[3e5, 4e5]], np.float32))
    found = parity(wide(tmp_path / "wide.onnx"), inputs=tmp_path / "x.npz")
    assert found.failed
    assert states(found)["onnx", "onnxruntime", "cpu"] == "pass"
    line = next(line for line in found.lines if (line.format, line.runtime, line.device) == ("onnx", "openvino", "cpu"))
    assert line.state == "fail"
    assert line.divergence is not None
    assert (line.divergence.layer, line.divergence.tensor) == ("to_whole", "whole")
    assert "first at to_whole (Cast)" in page(found)


def test_a_bundle_is_held_against_its_golden_answers(seal_linear: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = seal_linear()
    assert not parity(bundle.path).failed
    manifest = bundle.manifest
    samples = [Sample(s.inputs, {"logits": s.outputs["logits"] + 1}) for s in bundle.golden()]
    variant = manifest.variant()
    draft = Draft("linear", "1", manifest.inputs, manifest.outputs, (variant,), variant.id)
    wrong = seal(tmp_path / "wrong", draft, models={variant.id: bundle.model_file(variant)}, golden=samples, report="")
    found = parity(wrong.path)
    assert found.failed
    line = found.lines[0]
    assert line.worst is not None
    assert line.worst.largest == pytest.approx(1, abs=1e-5)
    assert line.divergence is not None
    assert "the file itself" in line.divergence.why


def test_8_bits_in_onnx_runtimes_form_are_not_held_against_openvino(
    seal_linear: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = seal_linear()
    manifest = bundle.manifest
    variant = manifest.variant().model_copy(update={"precision": "int8"})
    draft = Draft("linear", "1", manifest.inputs, manifest.outputs, (variant,), variant.id)
    files = {variant.id: bundle.model_file(variant)}
    sealed = seal(tmp_path / "int8", draft, models=files, golden=list(bundle.golden()), report="")
    found = states(parity(sealed.path))
    assert found["onnx", "onnxruntime", "cpu"] == "pass"
    assert found["onnx", "openvino", "cpu"] == "not run here"


def test_what_is_no_model_and_inputs_that_do_not_fit(linear_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(FormatError, match="not an ONNX model"):
        parity(tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", wrong=np.ones((1, 4), np.float32))
    with pytest.raises(DataError, match="wrong"):
        parity(linear_onnx, inputs=tmp_path / "x.npz")


def test_the_command_says_it_as_json_and_as_a_page(linear_onnx: Path, tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", HEADWAY, "parity", str(linear_onnx), "--json", "--html", str(tmp_path / "p.html")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(asked.stdout)
    assert found["failed"] is False
    assert found["lines"][0]["differences"]["logits"]["agreement"] == 1.0
    assert "node by node" in (tmp_path / "p.html").read_text()


def test_the_reference_is_computed_node_by_node(linear_onnx: Path) -> None:
    x = np.ones((2, 4), np.float32)
    answers = [session.run({"input": x})["logits"] for session in (
        OnnxRuntime().reference(linear_onnx), OnnxRuntime().load(linear_onnx)
    )]  # fmt: skip
    np.testing.assert_allclose(*answers, rtol=1e-5)
