"""Each way in which a bundle can be wrong is made for real, and is told apart from the others."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.bundles.bundle import Bundle
from headway.bundles.signing import sign, signing_key
from headway.core.errors import BundleError, StorageError, TamperedError

Seal = Callable[..., Bundle]
Change = Callable[[dict[str, Any]], None]
MODEL = "variants/fp32/linear.onnx"


def change(bundle: Bundle, edit: Change, *, resign: bool = True) -> Path:
    """Edit the manifest, and sign the folder again, as an attacker with a key of their own would."""
    path = bundle.path / "manifest.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    if resign:
        sign(bundle.path, signing_key())
    return bundle.path


def test_what_was_sealed_opens_and_verifies(seal_linear: Seal) -> None:
    bundle = Bundle.open(seal_linear().path)
    bundle.verify()
    assert (bundle.manifest.name, bundle.manifest.version) == ("linear", "1")
    assert bundle.model_file(bundle.manifest.variant()).read_bytes() == (bundle.path / MODEL).read_bytes()
    (sample,) = bundle.golden()
    assert sample.inputs["input"].shape == (3, 4)
    assert sample.outputs["logits"].dtype == np.float32


def test_a_moved_or_renamed_bundle_is_the_same(seal_linear: Seal, tmp_path: Path) -> None:
    bundle = seal_linear()
    moved = Bundle.open(bundle.path.rename(tmp_path / "elsewhere"))
    moved.verify()
    assert moved.digest == bundle.digest


def test_tampered_weights(seal_linear: Seal) -> None:
    bundle = seal_linear()
    data = bytearray((bundle.path / MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / MODEL).write_bytes(data)
    with pytest.raises(TamperedError, match=f"{MODEL} is not what was sealed"):
        Bundle.open(bundle.path).verify()


def test_truncated_weights(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / MODEL).write_bytes((bundle.path / MODEL).read_bytes()[:50])
    with pytest.raises(TamperedError, match=f"{MODEL} has 50 bytes, but"):
        Bundle.open(bundle.path).verify()


def test_tampered_weights_with_a_mended_manifest(seal_linear: Seal) -> None:
    """The checksums fit again, so only the signature can tell."""
    bundle = seal_linear()
    other = seal_linear(seed=1)
    shutil.copy(other.path / "golden/000.npz", bundle.path / "golden/000.npz")
    record = other.manifest.files["golden/000.npz"].model_dump()
    change(bundle, lambda document: document["files"].update({"golden/000.npz": record}), resign=False)
    with pytest.raises(TamperedError, match="signature does not hold"):
        Bundle.open(bundle.path).verify()


def test_tampered_manifest(seal_linear: Seal) -> None:
    bundle = seal_linear()
    change(bundle, lambda document: document["variants"][0]["tolerance"].update(logits=1e9), resign=False)
    with pytest.raises(TamperedError, match=r"manifest\.json was changed after sealing"):
        Bundle.open(bundle.path).verify()


def test_a_manifest_that_changes_after_opening(seal_linear: Seal) -> None:
    bundle = seal_linear()
    change(bundle, lambda document: document.update(labels=["a"]))
    with pytest.raises(TamperedError, match="changed after it was opened"):
        bundle.verify()


@pytest.mark.parametrize("name", ["extra.txt", ".git/config", ".gitattributes", ".hidden", "variants/fp32/more.bin"])
def test_an_extra_file_even_one_that_the_signature_would_ignore(seal_linear: Seal, name: str) -> None:
    bundle = seal_linear()
    (bundle.path / name).parent.mkdir(exist_ok=True)
    (bundle.path / name).write_text("x")
    with pytest.raises(TamperedError, match=f"{name} is not listed"):
        Bundle.open(bundle.path).verify()


def test_a_missing_file(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / "report.html").unlink()
    with pytest.raises(TamperedError, match=r"report\.html is missing"):
        Bundle.open(bundle.path).verify()


def test_a_missing_and_a_damaged_signature(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / "signature.json").write_text('{"mediaType": "x"}')
    with pytest.raises(TamperedError, match=r"signature\.json is damaged"):
        bundle.verify()
    (bundle.path / "signature.json").write_text("")
    with pytest.raises(TamperedError, match=r"signature\.json is damaged"):
        bundle.verify()
    (bundle.path / "signature.json").unlink()
    with pytest.raises(TamperedError, match="not signed"):
        bundle.verify()


def test_the_signature_of_another_bundle(seal_linear: Seal) -> None:
    bundle, other = seal_linear(), seal_linear(seed=1)
    shutil.copy(other.path / "signature.json", bundle.path / "signature.json")
    with pytest.raises(TamperedError, match="signature does not hold"):
        bundle.verify()


@pytest.mark.parametrize("link", ["variants/fp32/linear.onnx", "golden", "extra"])
def test_symbolic_links(seal_linear: Seal, tmp_path: Path, link: str) -> None:
    bundle = seal_linear()
    target = tmp_path / "outside"
    if (bundle.path / link).exists():
        shutil.move(bundle.path / link, target)
    else:
        target.write_text("secret")
    (bundle.path / link).symlink_to(target)
    with pytest.raises(BundleError, match=f"{link} is a symbolic link"):
        Bundle.open(bundle.path)


def test_a_pipe_is_refused_and_not_waited_on(seal_linear: Seal) -> None:
    bundle = seal_linear()
    os.mkfifo(bundle.path / "pipe")
    with pytest.raises(BundleError, match="neither a file nor a folder"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "path",
    ["../outside.onnx", "/etc/passwd", "variants/../../x", "a//b", "./a", "..", ".", "", "C:/x", "a\\b", "a\nb", "a/"],
)
def test_paths_that_leave_the_bundle(seal_linear: Seal, path: str) -> None:
    bundle = seal_linear()
    (bundle.path.parent / "outside.onnx").write_text("x")

    def escape(document: dict[str, Any]) -> None:
        document["files"][path] = document["files"].pop(MODEL)
        document["variants"][0]["file"] = path

    with pytest.raises(BundleError, match="does not stay inside"):
        Bundle.open(change(bundle, escape))


def rename(value: str) -> Change:
    return lambda document: document.update(name=value)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../etc", " ", "model/", "a\n", "<script>", "x" * 101])
def test_bad_names(seal_linear: Seal, name: str) -> None:
    with pytest.raises(BundleError, match="name: "):
        Bundle.open(change(seal_linear(), rename(name)))


@pytest.mark.parametrize("name", ["..my_model", "model..1", "a"])
def test_odd_but_good_names(seal_linear: Seal, name: str) -> None:
    bundle = Bundle.open(change(seal_linear(), rename(name)))
    bundle.verify()
    assert bundle.manifest.name == name


def test_a_zero_byte_manifest(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / "manifest.json").write_bytes(b"")
    with pytest.raises(BundleError, match="manifest is empty"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "not json",
        "\xff\xfe",
        "NaN",
        "[" * 100_000,
        '{"schema_version": 1, "schema_version": 1}',
        '{"a": 1e999}',
        '{"a": Infinity}',
        "[]",
    ],
)
def test_json_garbage(seal_linear: Seal, text: str) -> None:
    bundle = seal_linear()
    (bundle.path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"not valid JSON|not a JSON object"):
        Bundle.open(bundle.path)


def test_a_truncated_manifest(seal_linear: Seal) -> None:
    bundle = seal_linear()
    data = (bundle.path / "manifest.json").read_bytes()
    (bundle.path / "manifest.json").write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle.open(bundle.path)


def test_another_schema_version_says_which_headway_reads_it(seal_linear: Seal) -> None:
    def newer(document: dict[str, Any]) -> None:
        document["schema_version"] = 2
        document["lineage"]["packages"] = {"headway": "3.1.0"}
        document["something_new"] = True

    with pytest.raises(BundleError, match=r"schema is version 2; Headway .* reads version 1") as caught:
        Bundle.open(change(seal_linear(), newer))
    assert caught.value.remedy is not None
    assert "headway==3.1.0" in caught.value.remedy


@pytest.mark.parametrize("version", [None, "1", 1.0, True, "x; rm -rf /"])
def test_a_schema_version_that_is_no_number(seal_linear: Seal, version: object) -> None:
    with pytest.raises(BundleError, match="schema_version"):
        Bundle.open(change(seal_linear(), lambda document: document.update(schema_version=version)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.pop("inputs"), "inputs"),
        (lambda d: d.update(chosen="int8"), "chosen variant 'int8'"),
        (lambda d: d.update(variants=d["variants"] * 2), "same id"),
        (lambda d: d["variants"][0].update(file="variants/none.onnx"), "not listed among the files"),
        (lambda d: d.update(golden=["golden/009.npz"]), "not listed among the files"),
        (lambda d: d["variants"][0]["tolerance"].update(logits=-1), "tolerance"),
        (lambda d: d["variants"][0]["own_tolerance"].update(logits=-1), "tolerance"),
        (lambda d: d["files"].update({"signature.json": d["files"][MODEL]}), "cannot list"),
        (lambda d: d["inputs"][0].update(datatype="FP99"), "datatype"),
        (lambda d: d.update(version="01"), "version"),
    ],
)
def test_a_manifest_that_does_not_fit_together(seal_linear: Seal, edit: Change, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Bundle.open(change(seal_linear(), edit))


def test_what_is_no_bundle(tmp_path: Path, home: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.open(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path / "empty")
    (tmp_path / "text.hw").write_text("hello")
    with pytest.raises(BundleError, match=r"neither a folder nor a \.hw archive"):
        Bundle.open(tmp_path / "text.hw")


def test_a_private_copy_is_kept_and_made_anew_when_damaged(seal_linear: Seal, home: Path) -> None:
    bundle = seal_linear()
    copy = bundle.private_copy()
    copy.verify()
    assert copy.path.is_relative_to(home)
    assert (home / "cache" / "bundles").stat().st_mode & 0o077 == 0
    assert copy.private_copy().path == copy.path
    inode = copy.path.stat().st_ino
    assert bundle.private_copy().path.stat().st_ino == inode
    (copy.path / MODEL).write_bytes(b"")
    bundle.private_copy().verify()


def test_a_private_copy_of_a_tampered_bundle_does_not_verify(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / MODEL).write_bytes(b"x")
    with pytest.raises(TamperedError):
        bundle.private_copy().verify()


def test_a_manifest_that_is_a_folder(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / "manifest.json").unlink()
    (bundle.path / "manifest.json").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json is not a file"):
        Bundle.open(bundle.path)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.open(tmp_path / ("x" * 300 + ".hw"))


def test_an_onnx_file_is_told_apart_from_a_damaged_archive(linear_onnx: Path, home: Path) -> None:
    with pytest.raises(BundleError, match=r"neither a folder nor a \.hw archive") as caught:
        Bundle.open(linear_onnx)
    assert "headway pack" in str(caught.value.remedy)


def test_a_manifest_edited_by_hand_is_named_in_one_line(seal_linear: Seal) -> None:
    bundle = seal_linear()
    path = change(bundle, lambda document: document.update(version="2"), resign=False)
    with pytest.raises(TamperedError) as caught:
        Bundle.open(path).verify()
    assert caught.value.message == "manifest.json was changed after sealing"


def test_a_home_that_is_no_folder_is_not_called_a_lack_of_trust(
    seal_linear: Seal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = seal_linear()
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="not a folder"):
        bundle.verify()
