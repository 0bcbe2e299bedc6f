"""A model in other formats: what is written runs and answers the same; what cannot be written is said."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.runtimes import exported

from headway.bundles.bundle import Bundle
from headway.core.errors import DataError, FormatError, MissingDependencyError, UsageError
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.openvino import OpenVinoRuntime
from headway.shipping.export import export, formats

needs_openvino = pytest.mark.skipif(not OpenVinoRuntime().available().ready, reason="openvino is not installed")
HEADWAY = "from headway.cli.main import main; import sys; sys.argv[0] = 'headway'; main()"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.encoder(tmp_path_factory.mktemp("encoder") / "encoder.onnx")


@needs_openvino
def test_all_formats_are_written_and_proved(encoder: Path, tmp_path: Path) -> None:
    done = {each.format: each for each in export(encoder, "all", out=tmp_path / "out")}
    assert set(done) == set(formats())
    assert [file.name for file in done["openvino"].files] == ["encoder.xml", "encoder.bin"]
    assert {each.proved for each in done.values()} == {"onnxruntime", "openvino"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"encoder.onnx", "encoder.xml", "encoder.bin"}
    weights = sum(np.prod(s) for s in ((100, 32), (64, 32), *[(32, 32)] * 8))
    assert (tmp_path / "out" / "encoder.bin").stat().st_size >= 4 * weights, "32 bits stay 32 bits"


@needs_openvino
def test_a_batch_that_is_fixed(encoder: Path, tmp_path: Path) -> None:
    export(encoder, "all", out=tmp_path, batch=3)
    for runtime, file in ((OnnxRuntime(), "encoder.onnx"), (OpenVinoRuntime(), "encoder.xml")):
        session = runtime.load(tmp_path / file)  # type: ignore[attr-defined]
        assert {spec.shape for spec in session.inputs} == {(3, -1)}, file
        assert session.outputs[0].shape == (3, 32), file
        session.close()
    with pytest.raises(UsageError, match="does not vary"):
        export(tmp_path / "encoder.onnx", "openvino", out=tmp_path / "again", batch=2)


def test_a_bundles_model_is_exported_under_its_name(seal_linear: Callable[..., Bundle], tmp_path: Path) -> None:
    (done,) = export(seal_linear().path, "onnx", out=tmp_path / "out")
    assert done.files == (tmp_path / "out" / "linear.onnx",)
    assert done.differences is not None
    assert done.differences["logits"] < 1e-5


def test_what_cannot_be_written(linear_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nobody writes 'coreml'"):
        export(linear_onnx, "coreml")
    with pytest.raises(UsageError, match="over its own source"):
        export(linear_onnx, "onnx", out=linear_onnx.parent)
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(FormatError, match="not an ONNX model"):
        export(tmp_path / "m.onnx", "onnx", out=tmp_path / "out")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match="openvino is not installed"):
        export(linear_onnx, "openvino", out=tmp_path / "out")
    done = {each.format: each for each in export(linear_onnx, "all", out=tmp_path / "out")}
    assert (done["openvino"].files, bool(done["onnx"].files)) == ((), True)
    assert "headway[openvino]" in done["openvino"].why


@needs_openvino
def test_what_answers_otherwise_is_not_written(tmp_path: Path) -> None:
    """Random numbers times 1e12 are beyond 32 bits, where OpenVINO clips whole numbers."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Mul", ["x", "k"], ["large"]),
        helper.make_node("Cast", ["large"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.float32(1e12), "k")])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(FormatError, match="in openvino output 'y' of what was written differs"):
        export(tmp_path / "m.onnx", "openvino", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(linear_onnx: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HEADWAY, "export", str(linear_onnx), "--to", "onnx", "--json"]
    asked = subprocess.run([*command, "--out", str(tmp_path / "o")], capture_output=True, text=True, check=True)
    (done,) = json.loads(asked.stdout)["exports"]
    assert (done["format"], done["proved"]) == ("onnx", "onnxruntime")


def test_8_bits_need_openvino_and_rows(linear_onnx: Path, tmp_path: Path) -> None:
    for asked in ({"to": "onnx", "inputs": tmp_path / "rows.npz"}, {"to": "openvino"}):
        with pytest.raises(UsageError, match="for OpenVINO alone"):
            export(linear_onnx, out=tmp_path, int8=True, **asked)  # type: ignore[arg-type]


def test_the_proof_is_made_on_given_inputs(linear_onnx: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", input=np.full((3, 4), 1000, np.float32))
    (done,) = export(linear_onnx, "onnx", out=tmp_path / "out", inputs=tmp_path / "rows.npz")
    assert done.proved == "onnxruntime"
    np.savez(tmp_path / "rows.npz", input=np.full((3, 4), np.nan, np.float32))
    with pytest.raises(DataError, match="NaN"):
        export(linear_onnx, "onnx", out=tmp_path / "again", inputs=tmp_path / "rows.npz")
    assert not (tmp_path / "again").exists()
