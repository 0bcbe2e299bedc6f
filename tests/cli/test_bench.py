"""`headway bench` as a user meets it, on models that are run for real."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from tests.measure.graphs import products

from headway.core.errors import UsageError
from headway.measure.sweep import SHARE
from headway.shipping.bench import bench
from headway.shipping.bench_modes import Sweep

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle

COMMAND = [sys.executable, "-c", "from headway.cli.main import main; main()", "bench"]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def document(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wide(path: Path) -> Path:
    """Adds 1 to rows of a megabyte: memory is nearly all inputs and outputs, and so in proportion to the batch."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 250_000]) for name in ("x", "y")]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", ends[:1], ends[1:], [one])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def fixed(path: Path, rows: int) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_sweep_with_a_table_and_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    model = products(tmp_path / "a.onnx", [64, 256, 64])
    done = run(model, "--seconds", 0.5, "--max-batch", 4, "--threads", "1,2", "--html", page)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if " │ " in line and "batch" not in line] == [
        "1", "1", "2", "2", "4", "4",
    ]  # fmt: skip
    assert "is the smallest batch within 5% of the best throughput" in done.stdout
    assert "no larger batch was tried: the limit is --max-batch" in done.stdout
    assert "memory: 90% of" in done.stdout
    text = page.read_text()
    assert "<svg" in text
    assert ">2 threads<" in text
    assert "src=" not in text  # nothing is loaded from elsewhere
    assert "https://" not in text.replace("https://creativecommons", "").replace("https://matplotlib", "")


def test_the_best_point_of_a_bundle_within_a_bound(seal_linear: "Callable[..., Bundle]") -> None:
    bundle = seal_linear().path
    found = document(bundle, "--seconds", 30, "--max-batch", 2, "--threads", 1, "--p99", 10_000)
    best = found["result"]["best"]
    assert best["latency"]["p99_high"] <= 10_000
    assert best["rows_s"] == max(it["rows_s"] for it in found["result"]["points"])
    assert found["random_inputs"] is False
    assert 0 <= found["others"] <= 1
    never = document(bundle, "--seconds", 0.1, "--max-batch", 2, "--threads", 1, "--p99", 0.001)
    assert never["result"]["best"] is None
    assert never["stopped"] == "latency"
    assert "no batch keeps" in run(bundle, "--seconds", 0.1, "--max-batch", 1, "--p99", 0.001).stdout


def test_too_few_turns_are_said_to_be(tmp_path: Path) -> None:
    model = products(tmp_path / "a.onnx", [512, 4096, 4096, 512])
    done = run(model, "--seconds", 0.1, "--max-batch", 1, "--threads", 1, "--p99", 10_000)
    assert "turns are too few for an upper limit of the 99th percentile: --seconds" in done.stdout
    assert "too few runs" in done.stdout


def test_memory_is_measured_and_never_passed(tmp_path: Path) -> None:
    found = bench(wide(tmp_path / "a.onnx"), memory_mb=12, threads=[1], seconds=0.1)
    assert isinstance(found.result, Sweep)
    assert found.stopped == "memory"
    assert found.expected_mb is not None
    assert found.expected_mb > SHARE * 12
    taken = {it.batch: it.memory_mb for it in found.result.points}
    assert max(taken.values()) <= SHARE * 12
    assert sorted(taken) == [1, 2, 4]
    assert 8 <= taken[4] < 9  # a row in and a row out, 1 MB each
    assert found.result.groups == 2  # 7 rows together would not fit


def test_a_model_that_is_too_large_for_the_memory(tmp_path: Path) -> None:
    done = run(products(tmp_path / "a.onnx", [512, 2048, 512]), "--memory", 2, "--json")
    assert done.returncode == 2
    assert "--memory" in json.loads(done.stdout)["remedy"]


def test_a_fixed_batch_is_the_only_one(tmp_path: Path) -> None:
    found = document(fixed(tmp_path / "a.onnx", 3), "--seconds", 0.1, "--threads", 1)
    assert found["stopped"] == "fixed"
    assert [it["batch"] for it in found["result"]["points"]] == [3]
    server = document(fixed(tmp_path / "a.onnx", 3), "--seconds", 6, "--threads", 1, "--mode", "server", "--p99", 20)
    assert server["result"]["max_batch"] == 3


def test_one_query_after_the_other(linear_onnx: Path) -> None:
    found = document(linear_onnx, "--mode", "single-stream", "--seconds", 0.5, "--threads", "1,2")
    assert [it["threads"] for it in found["result"]] == [1, 2]
    assert all(0 < it["p50"] <= it["p90"] <= it["p90_high"] for it in found["result"])
    text = run(linear_onnx, "--mode", "single-stream", "--seconds", 0.5, "--threads", 1).stdout
    assert "queries one after the other" in text


def test_all_at_once(linear_onnx: Path) -> None:
    found = document(linear_onnx, "--mode", "offline", "--seconds", 0.2, "--max-batch", 8)["result"]
    assert found["rows_s_low"] <= found["rows_s"] <= found["rows_s_high"]
    assert found["rows"] % found["batch"] == 0


def test_random_arrivals_within_a_bound(linear_onnx: Path) -> None:
    result = bench(linear_onnx, mode="server", p99_ms=20, seconds=6, max_batch=4, threads=[1]).document()["result"]
    assert result["max_batch"] <= 4
    assert result["probes"]
    if result["outcome"] == "found":  # on a machine that is busy enough, no rate is
        assert result["p99_high"] <= 20
        assert result["queries_s"] > 0
    short = document(linear_onnx, "--mode", "server", "--p99", 500, "--seconds", 1)["result"]
    assert (short["outcome"], short["queries_s"]) == ("short", None)
    assert short["seconds"] >= 120


def test_a_model_that_refuses_a_batch_is_measured_below_it(tmp_path: Path) -> None:
    """Its input's batch varies, and inside it is added to a table of 1 and of 4 rows: only 1 and 4 rows will do."""
    path = tmp_path / "a.onnx"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    table = helper.make_tensor("table", TensorProto.FLOAT, [4, 4], [0.0] * 16)
    graph = helper.make_graph([helper.make_node("Add", ["x", "table"], ["y"])], "g", ends[:1], ends[1:], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(tmp_path / "x.npz", x=np.ones((4, 4), np.float32))
    found = document(path, "--inputs", tmp_path / "x.npz", "--seconds", 0.1, "--threads", 1)
    assert found["stopped"] == "refused"
    assert "the model fails at batch 2: " in found["reason"]
    assert [it["batch"] for it in found["result"]["points"]] == [1]


def test_a_model_that_fails_at_once_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [4, 4])
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g", ends[:1], ends[1:], [shape])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(tmp_path / "x.npz", x=np.ones((4, 4), np.float32))
    done = run(path, "--inputs", tmp_path / "x.npz", "--seconds", 0.1)
    assert done.returncode == 2
    assert "the model fails" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mode", "server"), "Give --p99 20"),
        (("--mode", "offline", "--html", "page.html"), "only a sweep has a page"),
        (("--threads", "1,x"), "such as 1,2"),
        (("--threads", "0"), "such as 1,2"),
        (("--variant", "int8"), "Leave --variant out"),
        (("--max-batch", "0"), "max-batch"),
    ],
)
def test_what_will_not_do_is_the_users_mistake(linear_onnx: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(linear_onnx, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(UsageError):
        bench(tmp_path / "notes.txt")
    with pytest.raises(UsageError):
        bench(tmp_path / "absent.onnx")


def test_it_can_be_interrupted(linear_onnx: Path) -> None:
    child = subprocess.Popen(
        [*COMMAND, str(linear_onnx), "--mode", "single-stream", "--seconds", "100", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    about = psutil.Process(child.pid)
    while about.cpu_times().user < 2 and child.poll() is None:  # past its imports
        threading.Event().wait(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert json.loads(out) == {"error": "interrupted"}
