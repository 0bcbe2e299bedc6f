"""The small real run."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from headway.doctor.finding import Severity
from headway.doctor.trial import _WEIGHTS, _try, tiny_model
from headway.runtimes.onnx_file import read_onnx
from headway.runtimes.onnx_runtime import OnnxRuntime


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model())
    return path


def test_the_tiny_model_is_sound(model: Path) -> None:
    onnx.checker.check_model(onnx.load(model), full_check=True)
    assert model.stat().st_size < 200
    assert read_onnx(model).operators == {"MatMul": 1}
    session = OnnxRuntime().load(model)
    x = np.ones((5, 4), np.float32)
    np.testing.assert_allclose(session.run({"x": x})["y"], x @ _WEIGHTS)
    session.close()


def test_a_runtime_that_works(model: Path) -> None:
    found = _try("onnxruntime", str(model))
    assert found.severity is Severity.OK, found
    assert "the numbers are right" in found.found


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "signal 4"),
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "libgomp"),
        ("raise ModuleNotFoundError('x')", "not installed"),
    ],
)
def test_a_runtime_that_does_not(
    module: str, says: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of the same name, earlier on the path, that dies as the real one does on a wrong machine."""
    (tmp_path / "first/onnxruntime").mkdir(parents=True)
    (tmp_path / "first/onnxruntime/__init__.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"), prepend=":")
    found = _try("onnxruntime", str(model))
    assert says in found.found
    assert found.severity is (Severity.OK if says == "not installed" else Severity.FAIL)


@pytest.mark.slow
def test_a_torch_step() -> None:
    found = _try("torch")
    assert found.severity is Severity.OK, found
    assert "lowers the loss" in found.found
