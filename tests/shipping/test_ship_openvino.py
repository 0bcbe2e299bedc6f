"""A static quantize step has a second form: 8 bits that NNCF makes for OpenVINO, in an environment of its own.

NNCF itself runs where its environment is made: HEADWAY_TEST_ENVIRONMENTS names the folder that holds it, which is the
folder `environments` of a HEADWAY_HOME in which `headway cache make nncf` was run (430 MB, half a minute).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.runtimes import exported

import headway
from headway.core.progress import Bar, Silent
from headway.export.environments.environment import environments, ready
from headway.runtimes.openvino import OpenVinoRuntime
from headway.serve.loading import load_bundle
from headway.shipping.export import export
from headway.shipping.ship import ship
from headway.shipping.verdict import ShipResult

needs_openvino = pytest.mark.skipif(not OpenVinoRuntime().available().ready, reason="openvino is not installed")


class Told(Silent):
    """What was said and begun."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        self.lines.append(title)
        with super().work(title, total) as bar:
            yield bar

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def nncf(home: Path) -> None:
    """An empty `HEADWAY_HOME` that has the environment."""
    if not (given := os.environ.get("HEADWAY_TEST_ENVIRONMENTS")):
        pytest.skip("HEADWAY_TEST_ENVIRONMENTS names no folder with NNCF's environment")
    environments().parent.mkdir(parents=True)
    environments().symlink_to(given)
    assert ready("nncf") is not None, f"{given} does not hold the environment of this lock and this Python"


def shipped(project: Path, told: Told, runtimes: str) -> ShipResult:
    overrides = [f"target.runtimes={runtimes}", "target.keep_accuracy=0.5"]
    return ship(project / "tiny.yaml", out=project / "out", overrides=overrides, register=False, progress=told)


@needs_openvino
def test_without_its_environment_it_is_not_tried_unasked(project: Path) -> None:
    told = Told()
    result = shipped(project, told, "[]")
    assert set(result.judged) == {"original", "original-openvino", "quantized"}
    assert any("headway cache make nncf" in line for line in told.lines)
    assert not environments().exists()


@needs_openvino
@pytest.mark.slow
def test_where_the_environment_cannot_be_made_the_rest_is_shipped(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    told = Told()
    result = shipped(project, told, "[onnxruntime, openvino]")
    assert result.verdict == "shipped"
    assert set(result.judged) == {"original", "original-openvino", "quantized"}
    said = next(line for line in told.lines if line.startswith("8 bits are not tried"))
    assert "No matching distribution" in said
    assert ready("nncf") is None


@needs_openvino
@pytest.mark.slow
@pytest.mark.usefixtures("nncf")
def test_openvinos_8_bits_are_built_measured_judged_sealed_and_replayed(project: Path) -> None:
    told = Told()
    result = shipped(project, told, "[onnxruntime, openvino]")
    assert list(result.judged) == ["original", "original-openvino", "quantized", "quantized-openvino"]
    judged = result.judged["quantized-openvino"]
    assert (judged.runtime, judged.built.format, judged.built.precision) == ("openvino", "openvino", "int8")
    assert judged.gate.outcome == "pass"
    assert result.evaluation.over_parent["quantized-openvino"].parent == "original-openvino"
    assert judged.card.size_mb * 1e6 == sum(file.stat().st_size for file in judged.built.files)
    manifest = headway.Bundle.open(project / "out").manifest
    record = manifest.lineage.steps["quantized-openvino"][0]
    assert (record.step, record.record["tool"], record.record["rows"]) == ("quantize", "nncf", 179)
    assert set(record.record["versions"]) >= {"nncf", "openvino"}
    assert {"variants/quantized-openvino/model.xml", "variants/quantized-openvino/model.bin"} <= set(manifest.files)
    loaded = load_bundle(headway.Bundle.open(project / "out"), variant="quantized-openvino", trust_any=True)
    assert loaded.session.inputs == headway.Bundle.open(project / "out").manifest.inputs
    loaded.session.close()
    again = Told()
    shipped(project, again, "[]")  # the environment is there, so that nobody needs to name OpenVINO
    assert not any("NNCF" in line for line in again.lines), "it was made once"


@needs_openvino
@pytest.mark.slow
@pytest.mark.usefixtures("nncf")
def test_an_onnx_file_is_exported_in_8_bits_and_proved(tmp_path: Path) -> None:
    file = exported.encoder(tmp_path / "encoder.onnx")
    draw = np.random.default_rng(0)
    rows = {"input_ids": draw.integers(0, 100, (20, 12)), "attention_mask": np.ones((20, 12), np.int64)}
    np.savez(tmp_path / "rows.npz", **rows)
    (done,) = export(file, "openvino", out=tmp_path / "out", inputs=tmp_path / "rows.npz", int8=True)
    assert done.proved == "openvino"
    assert [path.name for path in done.files] == ["encoder.xml", "encoder.bin"]
    (whole,) = export(file, "openvino", out=tmp_path / "whole")
    assert done.files[1].stat().st_size < 0.7 * whole.files[1].stat().st_size
