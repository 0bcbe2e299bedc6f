"""`headway bundle`, `registry`, `pack` and `inspect` as people and scripts call them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyrage
import pytest
from safetensors.numpy import save_file

from headway.bundles.bundle import Bundle
from headway.bundles.signing import public_key, signing_key

Seal = Callable[..., Bundle]


def headway(*words: object, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a shell would."""
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    asked = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from headway.cli.main import main; main()", *map(str, words)],
        capture_output=True, text=True, check=False, env=environment, input=stdin,
    )  # fmt: skip
    assert asked.returncode == code, asked.stderr + asked.stdout
    assert "Traceback" not in asked.stderr
    return asked


def document(*words: object, code: int = 0) -> Any:
    """The one JSON document on stdout."""
    return json.loads(headway(*words, "--json", code=code).stdout)


def test_inspect_and_verify(seal_linear: Seal) -> None:
    bundle = seal_linear()
    about = document("bundle", "inspect", bundle.path)
    assert (about["name"], about["digest"], about["variants"][0]["id"]) == ("linear", bundle.digest, "fp32")
    assert "linear, version 1" in headway("bundle", "inspect", bundle.path).stdout
    found = document("bundle", "verify", bundle.path)
    assert found["verified"] is True
    assert found["variants"]["fp32"]["replayed"] is True
    assert "golden samples match" in headway("bundle", "verify", bundle.path).stdout


def test_a_tampered_bundle_exits_2_with_a_json_error(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / "extra\x1b[31m").write_text("x")
    error = document("bundle", "verify", bundle.path, code=2)
    assert "not listed" in error["error"]
    text = headway("bundle", "verify", bundle.path, code=2).stderr
    assert "\x1b[31m" not in text, "what a file is called must not colour the terminal"


def test_a_variant_whose_runtime_is_not_here_is_not_replayed(seal_linear: Seal) -> None:
    from headway.bundles.signing import sign

    bundle = seal_linear()
    path = bundle.path / "manifest.json"
    path.write_text(path.read_text().replace('"onnxruntime"', '"abacus"'))
    sign(bundle.path, signing_key())
    found = document("bundle", "verify", bundle.path)["variants"]["fp32"]
    assert found["replayed"] is False
    assert "abacus" in found["why"]


@pytest.mark.slow
def test_trust(seal_linear: Seal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = seal_linear()
    key = tmp_path / "key.pem"
    key.write_text(headway("bundle", "key").stdout)
    assert key.read_text() == public_key(signing_key())
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "here"))
    assert "bundle trust" in headway("bundle", "verify", bundle.path, code=2).stderr
    headway("bundle", "verify", bundle.path, "--public-key", key)
    headway("bundle", "verify", bundle.path, "--trust-any")
    headway("bundle", "trust", bundle.path, code=1, stdin="n\n")
    headway("bundle", "verify", bundle.path, code=2)
    shown = headway("bundle", "trust", bundle.path, stdin="y\n")
    assert document("bundle", "verify", bundle.path)["signer"] in shown.stderr
    headway("bundle", "trust", key, "--yes")
    headway("bundle", "trust", bundle.path / "report.html", "--yes", code=2)


def test_archive_encrypt_decrypt(seal_linear: Seal, tmp_path: Path) -> None:
    bundle = seal_linear()
    key = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(f"{key}\n")
    headway("bundle", "archive", bundle.path, "--out", tmp_path / "x.hw")
    assert document("bundle", "verify", tmp_path / "x.hw")["digest"] == bundle.digest
    secret = tmp_path / "x.hw.age"
    headway("bundle", "encrypt", tmp_path / "x.hw", "--recipient", key.to_public(), "--out", secret)
    (tmp_path / "x.hw").unlink()
    assert "bundle decrypt" in headway("bundle", "verify", secret, code=2).stderr
    headway("bundle", "decrypt", secret, "--identity", tmp_path / "key.txt")
    assert document("bundle", "verify", tmp_path / "x.hw")["digest"] == bundle.digest
    headway("bundle", "encrypt", bundle.path, code=2)
    headway("bundle", "decrypt", secret, code=2)


@pytest.mark.slow  # a process for each command
def test_registry(seal_linear: Seal) -> None:
    assert document("registry", "list") == []
    first = document("registry", "add", seal_linear().path)
    assert (first["name"], first["version"], first["aliases"]) == ("linear", "1", [])
    assert "--version 2" in headway("registry", "add", seal_linear(seed=1).path, code=2).stderr
    document("registry", "add", seal_linear(seed=1).path, "--version", "2")
    assert document("registry", "alias", "linear", "prod", "1") == {"name": "linear", "alias": "prod", "version": "1"}
    assert [entry["version"] for entry in document("registry", "list")] == ["2", "1"]
    assert "prod" in headway("registry", "show", "linear").stdout
    shown = document("registry", "show", "linear@prod")
    assert shown["version"] == "1"
    assert Path(shown["path"]).is_dir()
    assert "Did you mean 'linear'" in headway("registry", "show", "liner", code=2).stderr
    headway("registry", "remove", "linear:1", code=2)
    headway("registry", "alias", "linear", "prod", "--delete")
    headway("registry", "remove", "linear:1")
    headway("registry", "alias", "linear", "prod", code=2)
    assert "linear" in headway("registry", "list").stdout


def test_pack(linear_onnx: Path, tmp_path: Path, home: Path) -> None:
    asked = headway("pack", linear_onnx, "--name", "m", "--out", tmp_path / "out", "--json")
    about = json.loads(asked.stdout)
    assert (about["name"], about["version"], about["inputs"]) == ("m", "1", "random")
    assert "random numbers" in asked.stderr
    headway("bundle", "verify", tmp_path / "out")
    np.savez(tmp_path / "x.npz", input=np.ones((2, 4), np.float32))
    given = document("pack", linear_onnx, "--name", "m", "--out", tmp_path / "out", "--inputs", tmp_path / "x.npz")
    assert given["inputs"] == "given"
    assert "--name" in headway("pack", linear_onnx, "--name", "a/b", code=2).stderr


def test_inspect_a_file(linear_onnx: Path, seal_linear: Seal, tmp_path: Path) -> None:
    about = document("inspect", linear_onnx)
    assert about["format"] == "onnx"
    assert about["operators"] == {"MatMul": 1}
    assert about["tensors"][0] == {"kind": "input", "name": "input", "datatype": "FP32", "shape": ["batch", 4]}
    save_file({"a": np.array([np.nan, 1], np.float32)}, tmp_path / "w")
    weights = document("inspect", tmp_path / "w")
    assert (weights["format"], weights["parameters"], weights["nan"]) == ("safetensors", 2, 1)
    assert document("inspect", seal_linear().path)["bundle"]["name"] == "linear"
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3)))
    assert document("inspect", tmp_path / "x.npz")["tensors"] == [{"name": "x", "datatype": "float64", "shape": [2, 3]}]
    for file in (linear_onnx, tmp_path / "w", tmp_path / "x.npz", seal_linear().path):
        assert str(file) in headway("inspect", file).stdout


def test_inspect_refuses_pickles_and_the_unknown(tmp_path: Path, home: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"\x80\x04N.")
    assert "headway convert" in headway("inspect", tmp_path / "x.pt", code=2).stderr
    (tmp_path / "x").write_bytes(b"hello")
    headway("inspect", tmp_path / "x", code=2)
    headway("inspect", tmp_path / "none", code=2)
