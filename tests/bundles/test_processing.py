"""A bundle proves its processing wherever it is loaded, and nothing in it leaves the bundle."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.processing.fixtures import PICTURE, encoded, pack_pictures, pack_texts, photo

import headway
from headway.bundles.bundle import MANIFEST, Bundle
from headway.bundles.processing import RawSample, golden_path, open_processing, read_raw, write_raw
from headway.bundles.signing import SIGNATURE, sign, signing_key
from headway.core.errors import BundleError, FormatError, MissingDependencyError, RequestError
from headway.core.files import digest_file
from headway.processing.stage import Limits

pytestmark = pytest.mark.usefixtures("home")


def resealed(bundle: Bundle, change: Callable[[dict[str, Any], Path], None]) -> Path:
    """A copy that was changed by somebody who can sign: the signature holds, so only the checks are left."""
    copy = bundle.path.with_name("changed")
    shutil.copytree(bundle.path, copy)
    (copy / SIGNATURE).unlink()
    document = json.loads((copy / MANIFEST).read_text())
    change(document, copy)
    for name, record in document["files"].items():
        record.update(sha256=digest_file(copy / name), size=(copy / name).stat().st_size)
    (copy / MANIFEST).write_text(json.dumps(document))
    sign(copy, signing_key())
    return copy


def test_raw_samples_come_back_to_the_byte(tmp_path: Path) -> None:
    rows = (b"\x00ends in zeros\x00\x00", b"x" * 5000, "é".encode())
    tensors = {"ids/of it": np.arange(6).reshape(3, 2), "mask": np.ones((3, 1), np.float16)}
    write_raw(tmp_path / "x.npz", RawSample(rows, tensors))
    back = read_raw(tmp_path / "x.npz")
    assert back.rows == rows
    assert list(back.tensors) == list(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(back.tensors[name], value, strict=True)


@pytest.mark.parametrize(
    "arrays",
    [
        {"raw/0": np.zeros(3, np.uint8)},
        {"tensor/x": np.zeros(3)},
        {"raw/1": np.zeros(3, np.uint8), "tensor/x": np.zeros(3)},
        {"raw/0": np.zeros(3), "tensor/x": np.zeros(3)},
        {"raw/0": np.zeros(3, np.uint8), "tensor/x": np.zeros(3), "else": np.zeros(3)},
    ],
)
def test_other_arrays_are_no_raw_samples(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FormatError, match="not raw samples"):
        read_raw(tmp_path / "x.npz")


def test_a_bundle_opens_its_processing(tmp_path: Path) -> None:
    bundle = pack_texts(tmp_path)
    assert bundle.manifest.processing is not None
    assert bundle.manifest.processing.files() == {"text": "processing/text.json"}
    assert (bundle.path / "processing" / "text.json").is_file()
    pipeline = open_processing(bundle)
    assert pipeline is not None
    assert [spec.name for spec in pipeline.inputs] == ["text"]


def test_a_bundle_without_processing_has_none(seal_linear: Callable[..., Bundle]) -> None:
    bundle = seal_linear()
    assert bundle.manifest.processing is None
    assert open_processing(bundle) is None


def test_a_bundle_from_before_there_was_processing_opens(seal_linear: Callable[..., Bundle]) -> None:
    bundle = seal_linear()
    document = json.loads((bundle.path / MANIFEST).read_text())
    del document["processing"]
    (bundle.path / MANIFEST).write_text(json.dumps(document))
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_another_version_that_answers_otherwise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for another Pillow: one that resizes with another filter."""
    bundle = pack_pictures(tmp_path)
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, _: resize(self, size, Image.Resampling.NEAREST))
    with pytest.raises(BundleError, match="become another 'pixels' here: it differs by") as caught:
        headway.load(bundle.path)
    assert "processing.inputs.picture" in str(caught.value)


def test_rounding_the_other_way_is_no_other_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for another build of a decoder: each pixel one step up."""
    bundle = pack_pictures(tmp_path)
    resize = Image.Image.resize

    def brighter(self: Image.Image, size: Any, how: Any) -> Image.Image:
        return Image.fromarray(np.minimum(np.asarray(resize(self, size, how)), 254) + 1)

    monkeypatch.setattr(Image.Image, "resize", brighter)
    assert open_processing(bundle) is not None


def test_another_tokenizer_is_found(tmp_path: Path) -> None:
    bundle = pack_texts(tmp_path)

    def change(_document: dict[str, Any], folder: Path) -> None:
        file = folder / "processing" / "text.json"
        file.write_text(file.read_text().replace('"lowercase":true', '"lowercase":false').replace(
            '"lowercase": true', '"lowercase": false'))  # fmt: skip

    with pytest.raises(BundleError, match=r"become another 'ids' here|has shape"):
        headway.load(resealed(bundle, change))


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, texts = pack_pictures(tmp_path / "a"), pack_texts(tmp_path / "b")
    for package, bundle, extra in (("PIL", pictures, "images"), ("tokenizers", texts, "text")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match="is not installed") as caught:
            open_processing(bundle)
        assert f"'headway[{extra}]'" in str(caught.value)


# Hostile bundles


def _file(name: str) -> Callable[[dict[str, Any], Path], None]:
    def change(document: dict[str, Any], _folder: Path) -> None:
        document["processing"]["inputs"]["text"][0]["tokenize"]["file"] = name

    return change


@pytest.mark.parametrize(
    "name",
    ["../../tokenizer.json", "/etc/passwd", "processing/../../x", "", "processing/other.json", "a\x00b", "C:\\x"],
)
def test_a_file_that_leaves_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"does not stay inside|is not listed among the files"):
        Bundle.open(resealed(pack_texts(tmp_path), _file(name)))


def _without_golden(document: dict[str, Any], folder: Path) -> None:
    del document["files"][golden_path("text")]
    (folder / golden_path("text")).unlink()


def _unknown_stage(document: dict[str, Any], _folder: Path) -> None:
    document["processing"]["outputs"]["scores"].append({"eval": {"code": "1"}})


def _unknown_key(document: dict[str, Any], _folder: Path) -> None:
    document["processing"]["outputs"]["scores"][1]["sigmoid"] = {"hook": "x"}


def _other_model(document: dict[str, Any], _folder: Path) -> None:
    document["processing"]["inputs"]["text"][1]["feed"]["input_ids"] = "none"


def _name(document: dict[str, Any], _folder: Path) -> None:
    document["processing"]["inputs"]["../x"] = document["processing"]["inputs"].pop("text")


def _text_for_number(document: dict[str, Any], _folder: Path) -> None:
    document["processing"]["inputs"]["text"][0]["tokenize"]["max_length"] = "16"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without_golden, "is not listed among the files"),
        (_unknown_stage, "unknown stage 'eval'"),
        (_unknown_key, "unknown key 'hook'"),
        (_other_model, "the model has no input 'none'"),
        (_name, "processing.inputs"),
        (_text_for_number, "max_length"),
    ],
)
def test_a_declaration_that_is_none_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        headway.load(resealed(pack_texts(tmp_path), change))
    assert says in str(caught.value)


def test_damaged_samples_are_refused(tmp_path: Path) -> None:
    bundle = pack_pictures(tmp_path)

    def change(_document: dict[str, Any], folder: Path) -> None:
        sample = read_raw(folder / golden_path("picture"))
        write_raw(folder / golden_path("picture"), RawSample((b"GIF89a",), sample.tensors))

    with pytest.raises(BundleError, match="its golden samples are refused: input 'picture', row 0: it is neither"):
        headway.load(resealed(bundle, change))


def test_limits_are_the_openers(tmp_path: Path) -> None:
    pipeline = open_processing(pack_pictures(tmp_path, PICTURE), Limits(max_pixels=100_000))
    assert pipeline is not None
    value = np.array([encoded(photo(400, 400))], dtype=object)
    with pytest.raises(RequestError, match="at most 100,000"):
        pipeline.before({"picture": value})
