"""`headway profile` as a user meets it."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.measure.graphs import chain, dynamic, products

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle

COMMAND = [sys.executable, "-c", "from headway.cli.main import main; main()", "profile"]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, arguments), "--seconds", "0.1"], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))


def test_a_model_kind_by_kind_and_operator_by_operator(tmp_path: Path) -> None:
    done = run(products(tmp_path / "a.onnx", [8, 16, 4]), "--batch", 5)
    assert done.returncode == 0, done.stderr
    assert "roofline, measured" in done.stdout
    assert "a run of 5 rows, 1 thread" in done.stdout
    assert "matmul0" in done.stdout
    assert "outside operators" in done.stdout


def test_a_bundle_as_a_document(seal_linear: "Callable[..., Bundle]") -> None:
    done = run(seal_linear().path, "--json")
    assert done.returncode == 0, done.stderr
    compute = json.loads(done.stdout)["compute"]
    (product,) = compute["operators"]
    assert product["kind"] == "MatMul"
    assert product["operations"] > 0
    assert product["bytes_per_s"] > 0
    assert product["intensity"] == pytest.approx(product["operations"] / product["bytes"])
    assert compute["roofline"]["machine"]["peak"]["fp32"] > compute["roofline"]["whole"]["operations_per_s"]
    assert sum(it["ms"] for it in compute["kinds"]) == pytest.approx(compute["ms"])


def test_memory_and_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    done = run(products(tmp_path / "a.onnx", [8, 16, 4]), "--batch", 5, "--trace", file, "--json")
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)["memory"]
    assert memory["activations_peak_bytes"] == max(memory["activations_bytes"])
    assert memory["weight_bytes"] >= 4 * (8 * 16 + 16 * 4)
    events = json.loads(file.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["ts"] >= before["ts"] + before["dur"] - 1e-6 for before, event in pairwise(spans))
    assert {event["args"]["bytes"] for event in events if event["ph"] == "C"} == set(memory["activations_bytes"])


def test_against_another_with_causes_and_a_page(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [16] * 4, size=32, depthwise=True)
    child = dynamic(parent, tmp_path / "b.onnx")
    page = tmp_path / "page.html"
    done = run(child, "--against", parent, "--html", page)
    assert done.returncode == 0, done.stderr
    assert "dynamic quantization: ranges are taken at every run" in done.stdout
    assert "ConvInteger" in page.read_text()
    assert "Against this machine" in page.read_text()
    document = json.loads(run(child, "--against", parent, "--json").stdout)
    assert document["causes"][0]["cause"] == "dynamic quantization"
    assert document["speedup"] == pytest.approx(document["against"]["ms"] / document["compute"]["ms"])


@pytest.mark.parametrize(
    ("other", "message"),
    [("b.onnx", "Give two forms of one model"), ("absent.onnx", "absent.onnx"), ("notes.txt", "notes.txt")],
)
def test_what_will_not_do_is_the_users_mistake(tmp_path: Path, other: str, message: str) -> None:
    model = products(tmp_path / "a.onnx", [8, 4])
    products(tmp_path / "b.onnx", [9, 4])
    (tmp_path / "notes.txt").write_text("notes")
    done = run(model, "--against", tmp_path / other)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_given_inputs_are_used(tmp_path: Path) -> None:
    model = products(tmp_path / "a.onnx", [8, 4])
    np.savez(tmp_path / "good.npz", x=np.ones((2, 8), np.float32))
    np.savez(tmp_path / "bad.npz", x=np.ones((2, 9), np.float32))
    assert run(model, "--inputs", tmp_path / "good.npz").returncode == 0
    assert run(model, "--inputs", tmp_path / "bad.npz").returncode == 2
