"""OpenVINO: the same answers as ONNX Runtime, from ONNX and from its own format, and what is refused and how."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtimes import exported
from tests.runtimes.shared import answers_of_threads

from headway.core.errors import FormatError, MissingDependencyError, RequestError
from headway.core.tensors import Array
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.openvino import OpenVinoRuntime, read_model, save_ir

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.conv(tmp_path_factory.mktemp("conv") / "conv.onnx")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.encoder(tmp_path_factory.mktemp("encoder") / "encoder.onnx")


def tokens(rows: int, length: int) -> dict[str, Array]:
    draw = np.random.default_rng(rows * 100 + length)
    mask = np.arange(length) < draw.integers(1, length + 1, rows)[:, None]
    return {"input_ids": draw.integers(0, 100, (rows, length)), "attention_mask": mask.astype(np.int64)}


def node(path: Path, operator: str, kind: int = TensorProto.FLOAT, out: int | None = None, **attributes: int) -> Path:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", kind, ["batch"])],
        [helper.make_tensor_value_info("y", out or kind, ["batch"])],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    return path


def test_a_convolutional_net_answers_as_in_onnx_runtime_at_any_batch(conv: Path) -> None:
    ours, theirs = OpenVinoRuntime().load(conv), OnnxRuntime().load(conv)
    assert (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)
    for rows in (1, 3, 33):
        value = np.random.default_rng(rows).random((rows, 1, 8, 8), np.float32)
        wanted = theirs.run({"image": value})["logits"]
        np.testing.assert_allclose(ours.run({"image": value})["logits"], wanted, rtol=1e-4, atol=1e-5)
    ours.close()


def test_an_encoder_answers_as_in_onnx_runtime_at_any_batch_and_length(encoder: Path) -> None:
    ours, theirs = OpenVinoRuntime().load(encoder, threads=2), OnnxRuntime().load(encoder)
    assert [(s.name, s.datatype, s.shape, s.dims) for s in ours.inputs] == [
        (s.name, s.datatype, s.shape, s.dims) for s in theirs.inputs
    ]
    for rows, length in ((1, 7), (5, 3), (2, 60), (1, 1), (1, 7)):
        wanted = theirs.run(tokens(rows, length))["sentence"]
        np.testing.assert_allclose(ours.run(tokens(rows, length))["sentence"], wanted, rtol=1e-4, atol=1e-5)
    ours.close()


def test_its_own_format_keeps_answers_and_names(encoder: Path, tmp_path: Path) -> None:
    save_ir(read_model(encoder), tmp_path / "encoder.xml")
    ours, theirs = OpenVinoRuntime().load(tmp_path / "encoder.xml"), OpenVinoRuntime().load(encoder)
    assert (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)
    assert all(ours.inputs[0].dims)
    np.testing.assert_array_equal(*(session.run(tokens(3, 9))["sentence"] for session in (ours, theirs)))


def test_inputs_that_cannot_be_shared_are_copied_and_answers_are_the_callers(conv: Path) -> None:
    session = OpenVinoRuntime().load(conv)
    whole = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    first = session.run({"image": whole})["logits"]
    kept = first.copy()
    session.run({"image": whole + 1})
    np.testing.assert_array_equal(first, kept)
    locked = whole.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(session.run({"image": locked})["logits"], kept)
    strided = np.concatenate([whole, whole], axis=3)[..., :8]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(session.run({"image": strided})["logits"], kept)


def test_threads_share_a_session(conv: Path) -> None:
    session = OpenVinoRuntime().load(conv)
    values = [np.full((number + 1, 1, 8, 8), number, np.float32) for number in range(4)]
    wanted = [session.run({"image": value})["logits"] for value in values]
    assert session.thread_safe
    assert answers_of_threads(session, "image", values, wanted) == []


def test_signals_are_handled_after_models_were_freed(conv: Path) -> None:
    program = (
        "import signal, sys; from pathlib import Path; from headway.runtimes.openvino import OpenVinoRuntime;"
        "models = [OpenVinoRuntime().load(Path(sys.argv[1])) for _ in range(2)];"
        "[model.close() for model in models];"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'));"
        "signal.raise_signal(signal.SIGTERM)"
    )
    command = [sys.executable, "-X", "faulthandler", "-c", program, conv]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "handled\n"


def test_text_is_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="'x' holds text") as caught:
        OpenVinoRuntime().load(node(tmp_path / "m.onnx", "Identity", TensorProto.STRING))
    assert "ONNX Runtime" in str(caught.value.remedy)


def test_whole_numbers_that_it_would_clip_are_refused(tmp_path: Path) -> None:
    session = OpenVinoRuntime().load(node(tmp_path / "m.onnx", "Neg", TensorProto.INT64))
    np.testing.assert_array_equal(session.run({"x": np.array([2**31 - 1])})["y"], [1 - 2**31])
    for wide in (2**31, -(2**31) - 1):
        with pytest.raises(RequestError, match="beyond 32 bits"):
            session.run({"x": np.array([wide])})


def test_shapes_that_do_not_fit_are_the_callers_mistake_and_do_no_harm(conv: Path) -> None:
    session = OpenVinoRuntime().load(conv)
    with pytest.raises(RequestError, match="refuses these inputs"):
        session.run({"image": np.ones((1, 1, 9, 8), np.float32)})
    assert session.run({"image": np.ones((1, 1, 8, 8), np.float32)})["logits"].shape == (1, 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"hello", "unknown format"), (b"<?xml version='1.0'?>\n<net >", "OpenVINO cannot load it")],
)
def test_what_is_no_model_is_one_clear_error(
    tmp_path: Path, content: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.xml"
    file.write_bytes(content)
    (tmp_path / "m.bin").write_bytes(b"")
    with pytest.raises(FormatError, match=message) as caught:
        OpenVinoRuntime().load(file)
    assert caught.value.where == str(file)
    assert ".cpp" not in caught.value.message
    assert capfd.readouterr().err == ""


def test_an_operator_that_it_lacks_weights_elsewhere_and_weights_that_are_gone(conv: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="NoSuchOperator"):
        OpenVinoRuntime().load(node(tmp_path / "m.onnx", "NoSuchOperator"))
    onnx.save(onnx.load(conv), tmp_path / "out.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(FormatError, match="lie in other files"):
        OpenVinoRuntime().load(tmp_path / "out.onnx")
    save_ir(read_model(conv), tmp_path / "m.xml")
    weights = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(FormatError, match="OpenVINO cannot load it"):
        OpenVinoRuntime().load(tmp_path / "m.xml")
    (tmp_path / "m.bin").unlink()
    with pytest.raises(FormatError, match=r"weights are missing: m\.bin"):
        OpenVinoRuntime().load(tmp_path / "m.xml")
    with pytest.raises(FormatError, match="no such file"):
        OpenVinoRuntime().load(tmp_path / "none.onnx")


def test_a_device_that_is_not_here(conv: Path) -> None:
    assert OpenVinoRuntime().available().ready
    for device in ("cuda", "npu"):
        assert not OpenVinoRuntime().available(device).ready
    with pytest.raises(MissingDependencyError, match="finds no npu here, but CPU"):
        OpenVinoRuntime().load(conv, device="npu")


def test_it_reports_to_nobody_and_brings_no_torch() -> None:
    """OpenVINO's own import starts a thread that sends statistics."""
    code = (
        "import sys, threading; from headway.runtimes.openvino import OpenVinoRuntime;"
        "assert OpenVinoRuntime().available().ready;"
        "assert not {'torch', 'openvino_telemetry', 'openvino_telemetry.main'} & set(sys.modules), 'imported';"
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr


def test_a_closed_session_does_not_run(conv: Path) -> None:
    session = OpenVinoRuntime().load(conv)
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.run({"image": np.ones((1, 1, 8, 8), np.float32)})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_shape_that_an_operator_inside_refuses_is_never_answered_with_another_runs_answer(
    tmp_path: Path, threads: int
) -> None:
    """With one thread OpenVINO itself loses this error and leaves the outputs of the run before."""
    graph = helper.make_graph(
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[4, 4])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, "h", "w"])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    session = OpenVinoRuntime().load(path, threads=threads)
    for _ in range(3):
        assert session.run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"].shape == (1, 1, 5, 5)
        with pytest.raises(RequestError, match="refuses these inputs"):
            session.run({"x": np.ones((1, 1, 3, 8), np.float32)})
    session.close()
