"""`headway inspect` on weights, and with Netron."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.cli.test_bundle import document, headway

MAIN = "from headway.cli.main import main; main()"


def test_weights_that_want_a_look_are_told(linear_onnx: Path) -> None:
    assert document("inspect", linear_onnx)["weights"]["nan"] == 0
    model = onnx.load(linear_onnx)
    weights = np.ones((4, 3), np.float32)
    weights[:, 1], weights[0, 0] = 0, np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
    onnx.save(model, linear_onnx)
    found = document("inspect", linear_onnx)["weights"]
    assert (found["nan"], found["infinite"], found["dead_channels"], found["odd_scales"]) == (1, 0, 1, 0)
    assert found["tensors"][0]["operator"] == "MatMul"
    assert "weights to look at" in headway("inspect", linear_onnx).stdout


def test_without_netron_the_command_that_installs_it(linear_onnx: Path) -> None:
    code = f"import sys; sys.modules['netron'] = None; {MAIN}"
    asked = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(linear_onnx), "--view"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 4
    assert "pip install netron" in asked.stderr


def test_with_netron_this_machine_alone_sees_the_file(linear_onnx: Path) -> None:
    pytest.importorskip("netron")
    environment = os.environ | {"BROWSER": "true", "PYTHONUNBUFFERED": "1", "COLUMNS": "400"}
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "inspect", str(linear_onnx), "--view"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    ) as viewer:  # fmt: skip
        try:
            assert viewer.stdout is not None
            line = next(text for text in viewer.stdout if " is at http://" in text)
            url = line.split(" is at ")[1].split()[0]
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310  (our own)
                assert b"netron" in page.read().lower()
        finally:
            viewer.terminate()
            viewer.wait(timeout=30)
