"""Why a variant is not faster than its parent: who the parent is, when it is asked, and where the answer shows."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.measure.graphs import chain, dynamic

from headway.compress.quantize import QuantizeConfig
from headway.core.progress import SILENT
from headway.shipping.build import Built
from headway.shipping.evaluate import OverParent, Subject, parents
from headway.shipping.recipe import Target
from headway.shipping.slower import explain, not_faster
from headway.shipping.store import Store

TASK = '''
"""Three convolutions of one channel, for which 8-bit kernels are slow."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from headway.tasks import Task, split


def digits() -> Task:
    data = load_digits()
    images = np.kron(data.images[:, None] / 16, np.ones((1, 1, 4, 4))).astype("float32")
    parts = split({"image": images}, data.target, fractions=(0.4, 0.1, 0.1, 0.4))

    def model() -> torch.nn.Module:
        nn = torch.nn
        layers = [layer for _ in range(3) for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 32, 10))

    return Task(parts=parts, model=model, labels=tuple("0123456789"))
'''


@dataclass(frozen=True)
class Step:
    name: str
    config: QuantizeConfig = field(default_factory=QuantizeConfig)


def subject(runtime: str, *steps: str, file: Path = Path()) -> Subject:
    plan: Any = SimpleNamespace(steps=tuple(map(Step, steps)))
    built = Built(plan, file, "onnx", "fp32", ())
    session: Any = None
    return Subject(built, runtime, session)


def test_a_parent_is_the_same_plan_without_its_last_step() -> None:
    found = parents(
        {
            "original": subject("a"),
            "original-b": subject("b"),
            "pruned": subject("a", "prune"),
            "quantized": subject("a", "quantize"),
            "pruned-quantized": subject("a", "prune", "quantize"),
            "pruned-quantized-b": subject("b", "prune", "quantize"),
            "qat-quantized": subject("a", "qat", "quantize"),  # qat comes only with quantize
        }
    )
    assert found == {
        "pruned": "original",
        "quantized": "original",
        "pruned-quantized": "pruned",
        "pruned-quantized-b": "original-b",
        "qat-quantized": "original",
    }


@pytest.mark.parametrize(
    ("speedup", "asked"),
    [((0.7, 0.8, 0.9), True), ((0.9, 1.0, 1.2), True), ((1.01, 1.02, 1.04), True), ((1.01, 1.02, 1.3), False)],
)
def test_when_a_reason_is_called_for(speedup: tuple[float, float, float], asked: bool) -> None:
    assert not_faster(OverParent(parent="original", speedup=speedup)) == asked


def test_a_comparison_is_made_once_for_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = chain(tmp_path / "a.onnx", [8] * 4, size=32, depthwise=True)
    subjects = {
        "original": subject("onnxruntime", file=parent),
        "quantized": subject("onnxruntime", "quantize", file=dynamic(parent, tmp_path / "b.onnx")),
        "fast": subject("onnxruntime", "fast", file=tmp_path / "absent.onnx"),
    }
    slow, fast = (OverParent(parent="original", speedup=(v, v, v)) for v in (0.5, 2.0))
    over = {"quantized": slow, "fast": fast}
    inputs = {"x": np.ones((1, 8, 32, 32), np.float32)}
    store = Store(tmp_path / "store", SILENT)
    first = explain(over, subjects, inputs, Target(), store, SILENT)
    assert list(first) == ["quantized"]
    assert first["quantized"].document()["cause"] == "dynamic quantization"
    monkeypatch.delattr("headway.shipping.slower.profile")
    assert explain(over, subjects, inputs, Target(), store, SILENT) == first


def test_a_model_that_cannot_be_profiled_does_not_stop_a_ship(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    bad = subject("onnxruntime", file=tmp_path / "bad.onnx")
    over = {"quantized": OverParent(parent="original", speedup=(0.5, 0.5, 0.5))}
    told: list[str] = []
    progress: Any = SimpleNamespace(say=told.append, work=SILENT.work)
    store = Store(tmp_path / "store", SILENT)
    assert explain(over, {"original": bad, "quantized": bad}, {}, Target(), store, progress) == {}
    assert "cannot be profiled" in told[0]


@pytest.mark.alone
def test_ship_tells_why_in_its_report_its_document_and_on_the_screen(project: Path) -> None:
    (project / "tiny.py").write_text(TASK)
    command = [Path(sys.executable).with_name("headway"), "ship", project / "tiny.yaml", "--out", project / "out"]
    command += [
        "--set",
        "steps=[{quantize: {calibration: minmax, keep_fp32: []}}]",
        "--set",
        "target.keep_accuracy=0.5",
    ]
    asked = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=240)
    assert asked.returncode == 0, asked.stderr
    document = json.loads(asked.stdout)
    variants = {variant["id"]: variant for variant in document["variants"]}
    assert "slower_because" not in variants["original"]
    because = variants["quantized"]["slower_because"]
    assert because["than"] == "original"
    assert because["speedup"][1] < 1
    assert because["cause"] == "slow 8-bit kernels"
    assert "3 QLinearConv" in because["evidence"]
    assert "keep_fp32" in because["try"]
    report = Path(document["report"]).read_text()
    assert "Why quantized is not faster than original" in report
    assert "3 QLinearConv" in report
    assert report.count('fill="#2b6cb0"') >= 3  # a bar for each layer
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert "not faster than original (0." in told.stdout
    assert f"{because['evidence']}. Try: {because['try']}" in told.stdout
