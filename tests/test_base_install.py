"""The wheel alone, in a clean environment, serves a bundle and answers: no torch, no onnx, no scikit-learn."""

import json
import os
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

ROOT = Path(__file__).parents[1]
ABSENT = ("torch", "onnx", "onnxscript", "torch_pruning", "sklearn", "matplotlib", "safetensors")


def run(*command: object, environment: dict[str, str]) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def doubling(path: Path) -> None:
    """A model that doubles a row of three numbers."""
    rows = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", rows[:1], rows[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_alone_serves(tmp_path: Path) -> None:
    environment = {**os.environ, "HEADWAY_HOME": str(tmp_path / "home"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, environment=environment)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock")
    run(*pip, wheel, environment=environment)
    probe = f"import importlib.util as u; print([m for m in {ABSENT} if u.find_spec(m)])"
    assert run(python, "-c", probe, environment=environment).strip() == "[]"

    headway = python.with_name("headway")
    doubling(tmp_path / "doubling.onnx")
    run(
        headway,
        "pack",
        tmp_path / "doubling.onnx",
        "--name",
        "doubling",
        "--out",
        tmp_path / "b",
        environment=environment,
    )
    with subprocess.Popen(
        [headway, "serve", tmp_path / "b", "--http-port", "0", "--grpc-port", "0", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            row = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}
            body = json.dumps({"inputs": [row]}).encode()
            asked = urllib.request.Request(f"{url}/v2/models/doubling/infer", body)  # noqa: S310  (our own server)
            with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
                (output,) = json.load(answer)["outputs"]
            assert np.allclose(output["data"], [2.0, 4.0, 6.0])
        finally:
            server.terminate()
            assert server.wait(timeout=60) == 0

    shipping = subprocess.run(
        [headway, "ship", ROOT / "examples" / "digits.yaml"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shipping.returncode == 4
    assert "pip install 'headway[ship]'" in shipping.stderr
