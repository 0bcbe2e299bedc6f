"""Packing ready ONNX files: what is sealed, and what is refused with nothing left behind."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headway.bundles.bundle import Bundle
from headway.bundles.golden import replay
from headway.core.errors import BundleError, BusyError, DataError, FormatError, UsageError
from headway.core.files import exclusive
from headway.core.tensors import TensorSpec
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.shipping.golden_inputs import random_inputs, tolerances
from headway.shipping.pack import pack


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: list[object], outputs: list[object], **weights: object
) -> Path:
    made = [helper.make_tensor_value_info(*value) for value in (*inputs, *outputs)]
    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "test", made[: len(inputs)], made[len(inputs) :], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def test_random_inputs(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    packed = pack(linear_onnx, name="linear", out=tmp_path / "out")
    assert packed.random_inputs
    bundle = Bundle.open(tmp_path / "out")
    bundle.verify()
    manifest = bundle.manifest
    assert (manifest.name, manifest.version, manifest.chosen) == ("linear", "1", "original")
    assert manifest.inputs == (TensorSpec(name="input", datatype="FP32", shape=(-1, 4), dims=("batch", "")),)
    assert [sample.inputs["input"].shape for sample in bundle.golden()] == [(1, 4), (4, 4)]
    variant = manifest.variant()
    assert (variant.precision, variant.runtime, variant.scorecard, variant.gate) == ("fp32", "onnxruntime", None, None)
    session = OnnxRuntime().load(bundle.model_file(variant))
    assert replay(bundle, variant, session)["logits"] <= variant.tolerance["logits"]
    session.close()
    report = (bundle.path / "report.html").read_text()
    assert "Nothing was compared" in report
    assert "random numbers" in report


def test_packing_again_gives_the_same_samples(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    first, second = (pack(linear_onnx, name="linear", out=tmp_path / name).bundle for name in "ab")
    assert first.manifest.files == second.manifest.files


def test_given_inputs_and_labels(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    rows = np.random.default_rng(0).random((100, 4))  # float64: it is cast
    np.savez(tmp_path / "x.npz", input=rows)
    (tmp_path / "labels.txt").write_text("cat\ndog\n<script>\n")
    packed = pack(linear_onnx, name="linear", out=tmp_path / "out", version="7", inputs=tmp_path / "x.npz",
                  labels=tmp_path / "labels.txt")  # fmt: skip
    assert not packed.random_inputs
    manifest = packed.bundle.manifest
    assert (manifest.version, manifest.labels) == ("7", ("cat", "dog", "<script>"))
    one, many = packed.bundle.golden()
    assert (len(one.inputs["input"]), len(many.inputs["input"])) == (1, 32)
    np.testing.assert_array_equal(many.inputs["input"], rows[:32].astype(np.float32))
    assert "random" not in (packed.bundle.path / "report.html").read_text()


def test_names_in_the_model_are_text_in_the_report(tmp_path: Path, home: Path) -> None:
    evil = "<script>alert(1)</script>"
    model = save(tmp_path / "m.onnx", [helper.make_node("Relu", [evil], ["y"])], [(evil, FLOAT, ["n", 2])],
                 [("y", FLOAT, ["n", 2])])  # fmt: skip
    report = (pack(model, name="m", out=tmp_path / "out").bundle.path / "report.html").read_text()
    assert "<script>" not in report
    assert "&lt;script&gt;" in report


def test_dimensions_that_vary_and_indices(tmp_path: Path, home: Path) -> None:
    """A table of three rows, looked up with indices whose number varies."""
    model = save(
        tmp_path / "m.onnx", [helper.make_node("Gather", ["table", "ids"], ["y"])], [("ids", INT64, ["n", "length"])],
        [("y", FLOAT, ["n", "length", 2])], table=np.ones((3, 2), np.float32),
    )  # fmt: skip
    bundle = pack(model, name="m", out=tmp_path / "out").bundle
    assert [sample.inputs["ids"].shape for sample in bundle.golden()] == [(1, 8), (4, 8)]


def test_larger_sizes_are_tried_when_small_ones_do_not_suit(tmp_path: Path, home: Path) -> None:
    model = save(
        tmp_path / "m.onnx", [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[20])],
        [("x", FLOAT, ["n", 1, "length"])], [("y", FLOAT, ["n", 1, "shorter"])],
    )  # fmt: skip
    bundle = pack(model, name="m", out=tmp_path / "out").bundle
    assert [sample.inputs["x"].shape for sample in bundle.golden()] == [(1, 1, 32), (4, 1, 32)]


def test_a_fixed_batch_and_other_outputs(tmp_path: Path, home: Path) -> None:
    model = save(
        tmp_path / "m.onnx",
        [helper.make_node("ArgMax", ["x"], ["label"], axis=1), helper.make_node("Relu", ["x"], ["score"])],
        [("x", FLOAT, [2, 3])], [("label", INT64, [2, 1]), ("score", FLOAT, [2, 3])],
    )  # fmt: skip
    bundle = pack(model, name="m", out=tmp_path / "out").bundle
    assert [sample.inputs["x"].shape for sample in bundle.golden()] == [(2, 3)]
    tolerance = bundle.manifest.variant().tolerance
    assert tolerance["label"] == 0
    assert tolerance["score"] > 0


@pytest.fixture
def total(tmp_path: Path, home: Path) -> Path:
    """The sum of each row, [batch, length] -> [batch, 1]."""
    node = helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)
    return save(
        tmp_path / "total.onnx", [node], [("x", FLOAT, ["batch", "length"])], [("y", FLOAT, ["batch", 1])], axis=[1]
    )


def test_padding_is_proved_and_sealed(total: Path, tmp_path: Path) -> None:
    bundle = pack(total, name="total", out=tmp_path / "out", padding={"x": 0}).bundle
    assert Bundle.open(bundle.path).manifest.padding == {"x": 0}
    assert pack(total, name="total", out=tmp_path / "other").bundle.manifest.padding == {}


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ({"x": 1}, "padding changes output 'y' by 4"),
        ({"z": 0}, "padding for 'z', which is no input"),
        ({"x": float("inf")}, "inf is no FP32"),
    ],
)
def test_padding_that_changes_answers_or_does_not_fit_is_refused(
    total: Path, tmp_path: Path, padding: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pack(total, name="total", out=tmp_path / "out", padding=padding)
    assert not (tmp_path / "out").exists()


def test_text(tmp_path: Path, home: Path) -> None:
    model = save(tmp_path / "m.onnx", [helper.make_node("Identity", ["t"], ["u"])], [("t", TensorProto.STRING, ["n"])],
                 [("u", TensorProto.STRING, ["n"])])  # fmt: skip
    assert pack(model, name="m", out=tmp_path / "out").bundle.manifest.inputs[0].datatype == "BYTES"


def refused(model: Path, out: Path, error: type[Exception], message: str, **options: object) -> str:
    """Pack, expect the error, see that nothing was left, and give the whole text."""
    with pytest.raises(error, match=message) as caught:
        pack(model, **({"name": "m", "out": out} | options))  # type: ignore[arg-type]
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))
    return str(caught.value)


def test_nan_outputs(tmp_path: Path, home: Path) -> None:
    model = save(tmp_path / "m.onnx", [helper.make_node("Mul", ["x", "w"], ["y"])], [("x", FLOAT, ["n", 2])],
                 [("y", FLOAT, ["n", 2])], w=np.array([np.nan, 1], np.float32))  # fmt: skip
    assert "--inputs" in refused(model, tmp_path / "out", DataError, "'y' holds NaN")


def test_other_formats(tmp_path: Path, home: Path) -> None:
    out = tmp_path / "out"
    model = tmp_path / "m.onnx"
    model.write_bytes(pickle.dumps([1]))
    assert "headway convert" in refused(model, out, FormatError, "Python pickle")
    model.write_bytes(b"")
    refused(model, out, FormatError, "empty")
    model.write_bytes(b"hello")
    refused(model, out, FormatError, "unknown format")
    refused(tmp_path / "none.onnx", out, FormatError, "no such file")
    np.savez(tmp_path / "x.npz", x=np.ones(1))
    refused(tmp_path / "x.npz", out, FormatError, "numpy arrays")


def test_an_operator_that_nobody_knows(tmp_path: Path, home: Path) -> None:
    model = save(tmp_path / "m.onnx", [helper.make_node("Nope", ["x"], ["y"])], [("x", FLOAT, ["n"])],
                 [("y", FLOAT, ["n"])])  # fmt: skip
    refused(model, tmp_path / "out", FormatError, "Nope")


def test_external_data(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    model = onnx.load(linear_onnx)
    onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    text = refused(tmp_path / "apart.onnx", tmp_path / "out", FormatError, "1 tensors lie in other files")
    assert "save_as_external_data=False" in text


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((2, 4), np.float32)}, "model's inputs are"),
        ({"input": np.ones((2, 4), np.float32), "x": np.ones(1)}, "model's inputs are"),
        ({"input": np.ones((2, 5), np.float32)}, "'input' is float32 of shape"),
        ({"input": np.ones((2, 4), np.complex64)}, "'input' is complex64"),
        ({"input": np.full((2, 4), "a")}, "'input' is object"),
        ({"input": np.full((2, 4), np.nan, np.float32)}, "NaN"),
        ({"input": np.full((2, 4), 1e300)}, "NaN or infinity"),
        ({"input": np.ones((0, 4), np.float32)}, "no rows"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_inputs_that_do_not_fit(
    linear_onnx: Path, tmp_path: Path, home: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    refused(linear_onnx, tmp_path / "out", DataError, message, inputs=tmp_path / "x.npz")


def test_pickled_inputs(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    np.savez(tmp_path / "x.npz", input=np.array([{}], dtype=object))
    refused(linear_onnx, tmp_path / "out", FormatError, "never loaded", inputs=tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\nb\n", "2 labels, but 'logits' has 3 classes"), ("", "a label on every line"), ("a\n\nb\n", "every line")],
)
def test_labels_that_do_not_fit(linear_onnx: Path, tmp_path: Path, home: Path, content: str, message: str) -> None:
    (tmp_path / "l.txt").write_text(content)
    refused(linear_onnx, tmp_path / "out", UsageError, message, labels=tmp_path / "l.txt")
    refused(linear_onnx, tmp_path / "out", UsageError, "cannot be read", labels=tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b"])
def test_names_and_versions_that_will_not_do(linear_onnx: Path, tmp_path: Path, home: Path, name: str) -> None:
    refused(linear_onnx, tmp_path / "out", UsageError, "--name", name=name)
    refused(linear_onnx, tmp_path / "out", UsageError, "--version", version="1.0")


def test_a_folder_in_use(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "x").write_text("x")
    with pytest.raises(BundleError, match="something else"):
        pack(linear_onnx, name="m", out=tmp_path / "work")
    pack(linear_onnx, name="m", out=tmp_path / "out")
    (lock,) = (home / "locks").glob("*.lock")
    with exclusive(lock, "test"), pytest.raises(BusyError):
        pack(linear_onnx, name="m", out=tmp_path / "out")


def test_random_inputs_fit_datatype_and_shape() -> None:
    kinds = {"BOOL": "?", "UINT8": "u1", "INT64": "i8", "FP16": "f2", "FP64": "f8", "BYTES": "O"}
    specs = [TensorSpec(name=kind, datatype=kind, shape=(-1, -1, 3)) for kind in kinds]
    one, four = random_inputs(specs, size=5)
    for kind, code in kinds.items():
        assert one[kind].shape == (1, 5, 3)
        assert four[kind].shape == (4, 5, 3)
        assert four[kind].dtype == np.dtype(code)
    assert four["UINT8"].max() > 1 >= four["INT64"].max()


def test_tolerances_have_a_floor_and_stay_finite() -> None:
    outputs = {
        "y": [np.array([-50.0, np.inf], np.float32)],
        "zero": [np.zeros(2, np.float32)],
        "half": [np.full(2, 2.0, np.float16)],
        "label": [np.ones(2, int)],
    }
    found = tolerances(outputs, {"y": 0.5, "zero": 0.0, "half": 0.0, "label": 0.0})
    assert found == pytest.approx({"y": 2.005, "zero": 1e-6, "half": 16 * 2**-10, "label": 0.0})
    assert tolerances(outputs, {"y": 0.5}, quantized=True) == pytest.approx({"y": 3.0})


def test_packing_needs_neither_torch_nor_onnx(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = sys.modules['safetensors'] = None\n"
        "from pathlib import Path; from headway.shipping.pack import pack\n"
        f"pack(Path({str(linear_onnx)!r}), name='m', out=Path({str(tmp_path / 'out')!r}))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    Bundle.open(tmp_path / "out").verify()
