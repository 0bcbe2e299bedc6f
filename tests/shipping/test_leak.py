"""A bundle and an ONNX file are run with their own inputs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.test_bundle import document, headway

from headway.bundles.bundle import Bundle
from headway.core.errors import FormatError, TamperedError, UsageError
from headway.shipping.leak import leak

Seal = Callable[..., Bundle]
WIDE = 100_000.0


def test_a_bundle_and_a_file(seal_linear: Seal, linear_onnx: Path) -> None:
    assert leak(seal_linear().path, rounds=640, bound=WIDE).verdict == "flat"
    assert leak(linear_onnx, rounds=640, bound=WIDE).verdict == "flat"


def test_what_cannot_be_watched(seal_linear: Seal, linear_onnx: Path, tmp_path: Path) -> None:
    bundle = seal_linear()
    with pytest.raises(UsageError, match="It has: fp32"):
        leak(bundle.path, variant="int8")
    with pytest.raises(UsageError, match="no variants"):
        leak(linear_onnx, variant="fp32")
    (tmp_path / "x").write_text("x")
    with pytest.raises(FormatError):
        leak(tmp_path / "x")
    bundle.model_file(bundle.manifest.variant()).write_bytes(linear_onnx.read_bytes() + b"\0")
    with pytest.raises(TamperedError):
        leak(bundle.path)


def test_the_command(linear_onnx: Path, home: Path) -> None:
    found = document("leak", linear_onnx, "--rounds", 640, "--bound", WIDE)
    assert (found["verdict"], found["rounds"]) == ("flat", 640)
    text = headway("leak", linear_onnx, "--rounds", 640, "--bound", WIDE).stdout
    assert "flat over 640 rounds: less than 100,000 bytes a round" in text
    assert "cannot tell" in document("leak", linear_onnx, "--rounds", 5, code=2)["error"]
