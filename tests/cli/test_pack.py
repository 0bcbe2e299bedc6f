"""`headway pack` as a user meets it; what it seals is tested with the packing."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

COMMAND = [sys.executable, "-c", "from headway.cli.main import main; main()", "pack"]


@pytest.fixture
def model(tmp_path: Path, home: Path) -> Path:
    """What is not negative stays, [batch, length] -> [batch, length]."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length"])],
    )
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip


def test_padding_is_given_by_input(model: Path, tmp_path: Path) -> None:
    done = run(model, "--name", "relu", "--out", tmp_path / "out", "--pad", "x=-1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["padding"] == {"x": -1}


@pytest.mark.parametrize(
    ("given", "message"),
    [("x", "'x' is not INPUT=VALUE, such as input_ids=0"), ("x=zero", "is not INPUT=VALUE"), ("z=0", "no input")],
)
def test_padding_that_will_not_do_is_the_users_mistake(model: Path, tmp_path: Path, given: str, message: str) -> None:
    done = run(model, "--name", "relu", "--out", tmp_path / "out", "--pad", given)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
