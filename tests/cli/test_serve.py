"""`headway serve` as a user meets it; what it serves is tested with the server."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.manifest import Variant
from headway.bundles.seal import Draft, seal
from headway.registry.registry import Registry
from headway.runtimes.onnx_runtime import OnnxRuntime

COMMAND = [sys.executable, "-c", "from headway.cli.main import main; main()", "serve", "--grpc-port", "0"]


@pytest.fixture
def bundle(tmp_path: Path, home: Path) -> Bundle:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["same"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, ["batch", 2])],
    )
    model = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    session = OnnxRuntime().load(model)
    variant = Variant(id="v", file="", format="onnx", runtime="onnxruntime", precision="fp32", tolerance={"same": 0})
    draft = Draft("echo", "1", session.inputs, session.outputs, (variant,), "v")
    value = np.ones((1, 2), np.float32)
    return seal(
        tmp_path / "b", draft, models={"v": model}, golden=[Sample({"input": value}, {"same": value})], report=""
    )


def refused(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_it_says_where_it_answers_and_how_to_ask(bundle: Bundle) -> None:
    Registry().add(bundle)
    running = subprocess.Popen(
        [*COMMAND, "echo", "--http-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    line = running.stdout.readline()
    try:
        assert line.startswith("serving echo at http://127.0.0.1:")
        url, curl = line.split()[3], line.split("curl ")[1].strip()
        assert curl == f"{url}/v2/models/echo"
    finally:
        running.terminate()
        out, _ = running.communicate(timeout=30)
    assert running.returncode == 0
    assert out == ""


def test_a_bundle_that_was_tampered_with_exits_2_before_it_listens(bundle: Bundle) -> None:
    (bundle.path / "report.html").write_text("changed")
    done = refused(str(bundle.path), "--http-port", "0", "--json")
    assert done.returncode == 2
    assert "report.html" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr
    assert "listening" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "no-such-model"),
        (["./no/such/bundle"], "no such bundle"),
        (["x", "--http-port", "99999"], "http_port"),
        (["x", "--threads", "0"], "threads"),
        (["x", "--cache-mb", "-1"], "cache_mb"),
        ([], "no bundle to serve"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_2(home: Path, arguments: list[str], message: str) -> None:
    done = refused(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_come_from_a_file_and_what_is_typed_wins(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("http_port: 99999\nmax_body_bytes: 1000\nbatching: fixed\n")
    arguments = [str(bundle.path), "--config", str(file), "--set", "http_port=0", "--batching", "adaptive", "--json"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        try:
            url = json.loads(running.stdout.readline())["url"]
            with urllib.request.urlopen(f"{url}/v2/models/echo/config", timeout=20) as answer:  # noqa: S310
                assert json.load(answer)["parameters"]["batching"]["string_value"] == "adaptive"
            with pytest.raises(urllib.error.HTTPError, match="413"):
                urllib.request.urlopen(f"{url}/v2/models/echo/infer", b" " * 1001, timeout=20)  # noqa: S310
        finally:
            running.terminate()


def test_a_mistake_in_the_file_is_named_with_its_line(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("http_port: 0\nmax_body_byte: 1000\n")
    done = refused("x", "--config", str(file))
    assert done.returncode == 2
    assert f"{file}:2" in done.stderr.replace("\n", "")
    assert "max_body_bytes" in done.stderr
