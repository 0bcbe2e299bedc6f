"""Declarations are sealed by `pack` and `ship`: with their files, with samples, and with nothing from elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.processing.fixtures import (
    PICTURE,
    TEXT,
    colours_of,
    encoded,
    pack_pictures,
    pack_texts,
    photo,
    scores_of,
)

import headway
from headway.bundles.processing import golden_path, read_raw
from headway.core.errors import BundleError, ConfigError, DataError, FormatError
from headway.shipping.recipe import Recipe

pytestmark = pytest.mark.usefixtures("home")


# pack


def test_pictures(tmp_path: Path) -> None:
    bundle = pack_pictures(tmp_path)
    assert bundle.manifest.lineage.packages["pillow"]
    assert [len(sample.inputs["pixels"]) for sample in bundle.golden()] == [1, 2]  # made from the raw samples
    assert "resize (shorter 40)" in (bundle.path / "report.html").read_text()
    with headway.load(bundle) as model:
        assert [spec.name for spec in model.inputs] == ["picture"]
        assert [spec.name for spec in model.outputs] == ["scores", "label"]
        pictures = [photo(70, 90, seed=1), photo(50, 41, seed=2)]
        found = model.predict({"picture": [encoded(picture) for picture in pictures]})
        expected = np.stack([colours_of(picture) for picture in pictures])
        np.testing.assert_allclose(found["scores"], expected, rtol=1e-5)
        assert found["label"].tolist() == [[b"red", b"green", b"blue"][place] for place in expected.argmax(axis=1)]
        own = model.predict({"pixels": np.zeros((1, 3, 32, 32), np.float32)})
        np.testing.assert_allclose(own["scores"], [[1 / 3] * 3])


def test_texts(tmp_path: Path) -> None:
    bundle = pack_texts(tmp_path)
    assert bundle.manifest.lineage.packages["tokenizers"]
    with headway.load(bundle) as model:
        texts = ["the lazy dog", "A naïve fox, again and again, over and over", ""]
        found = model.predict({"text": texts})
        np.testing.assert_allclose(found["scores"], scores_of(texts), rtol=1e-5)


def test_what_a_caller_in_process_gets_wrong(tmp_path: Path) -> None:
    from headway.core.errors import RequestError

    with headway.load(pack_texts(tmp_path)) as model:
        for inputs, says in (
            ({"text": "one alone"}, "give a list of rows"),
            ({"text": [7]}, "input 'text', row 0: must be text, not int"),
            ({"text": []}, r"must be BYTES of shape \[-1\]"),
            ({"words": ["x"]}, "no input is called 'words'"),
            ({"text": ["x"], "ids": np.ones((1, 1), np.int64)}, "'ids' is given twice"),
            ({"ids": np.ones((1, 1), np.int64)}, "input 'mask' is missing"),
        ):
            with pytest.raises(RequestError, match=says):
                model.predict(inputs)  # type: ignore[arg-type]


def test_samples_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    files = [encoded(photo(60, 60, seed=number), "JPEG") for number in range(10)]
    for number, data in enumerate(files):
        (tmp_path / "mine" / f"{number}.jpg").write_bytes(data)
    bundle = pack_pictures(tmp_path, PICTURE + "samples: {picture: mine}\n")
    sample = read_raw(bundle.path / golden_path("picture"))
    assert sample.rows == tuple(files[:8])
    assert sample.tensors["pixels"].shape == (8, 3, 32, 32)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("one text\n\nanother, naïve\n")
    bundle = pack_texts(tmp_path / "b", TEXT + "samples: {text: mine.txt}\n")
    assert read_raw(bundle.path / golden_path("text")).rows == (b"one text", "another, naïve".encode())
    assert bundle.manifest.processing is not None
    assert "samples" not in bundle.manifest.processing.model_dump()


def test_the_same_declaration_gives_the_same_files(tmp_path: Path) -> None:
    first, second = pack_pictures(tmp_path / "a"), pack_pictures(tmp_path / "b")
    assert first.manifest.files == second.manifest.files


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("tokenizer.json", "../outside.json", 2, "'../outside.json' is not inside"),
        ("tokenizer.json", "/etc/hostname", 2, "is not inside"),
        ("tokenizer.json", "link.json", 2, "'link.json' is not inside"),
        ("tokenizer.json", "'.'", 2, "is not inside"),
        ("tokenizer.json", '"a\\0b"', 2, "is not inside"),
        ("tokenizer.json", "none.json", 2, "no such file"),
        ("tokenizer.json", "x" * 5000, 2, "no such file"),
        ("sigmoid]", "sigmoid, labels]", 6, "labels: takes indices"),
        ("sigmoid]", "{top_k: 4}]", 6, "the greatest 4 of 3 classes"),
        ("sigmoid]", "argmax, labels]", 6, "the model has no labels"),
        ("sigmoid]", "eval]", 6, "unknown stage 'eval'"),
        ("outputs:", "samples: {text: ../outside.json}\noutputs:", 5, "is not inside"),
        ("outputs:", "samples: {other: tokenizer.json}\noutputs:", 5, "samples of 'other', which is no declared input"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    (tmp_path / "outside.json").write_text("secret")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "link.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ConfigError) as caught:
        pack_texts(folder, TEXT.replace(old, new, 1))
    assert says in str(caught.value)
    assert f"p.yaml:{line}" in str(caught.value)
    assert not (folder / "out").exists()


def test_samples_that_do_not_suit(tmp_path: Path) -> None:
    (tmp_path / "bad.gif").write_bytes(encoded(photo(), "GIF"))
    with pytest.raises(DataError, match="neither a JPEG nor a PNG") as caught:
        pack_pictures(tmp_path, PICTURE + "samples: {picture: bad.gif}\n")
    assert "bad.gif" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no samples"):
        pack_pictures(tmp_path, PICTURE + "samples: {picture: empty}\n")
    if os.name == "posix":
        (tmp_path / "empty" / "x.png").symlink_to("/etc/hostname")
        with pytest.raises(DataError, match="no samples"):
            pack_pictures(tmp_path, PICTURE + "samples: {picture: empty}\n")
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    with pytest.raises(DataError, match="more than 16 MB"):
        pack_pictures(tmp_path, PICTURE + "samples: {picture: large}\n")


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(FormatError, match=r"not a tokenizer\.json"):
        pack_texts(tmp_path, TEXT.replace("tokenizer.json", "bad.json"))


def test_the_command_line(tmp_path: Path) -> None:
    pack_pictures(tmp_path)
    command = [sys.executable, "-c", "from headway.cli.main import main; main()"]
    told = ["--name", "m", "--out", "again", "--processing", "p.yaml", "--labels", "labels.txt"]

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("pack", "m.onnx", *told).returncode == 0
    shown = run("bundle", "inspect", "again").stdout
    assert "client sends picture" in shown
    assert "crop (height 32, width 32)" in shown
    document = json.loads(run("bundle", "inspect", "again", "--json").stdout)
    assert document["processing"]["outputs"]["label"][2] == {"labels": {}}
    assert "processing: golden samples match" in run("bundle", "verify", "again").stdout
    wrong = run("pack", "m.onnx", *told[:-2])  # without labels
    assert wrong.returncode == 2
    assert "p.yaml:11: labels: the model has no labels" in wrong.stderr
    assert "Traceback" not in wrong.stderr


# ship

DIGITS = """
processing:
  inputs:
    scan: [{decode: GREY}, {resize: {height: 8, width: 8}}, normalise, {layout: NCHW}, {feed: image}]
  outputs:
    digit: [{take: logits}, argmax, labels]
"""


@pytest.mark.slow
def test_a_recipe_declares_it(project: Path) -> None:
    recipe = project / "tiny.yaml"
    recipe.write_text(recipe.read_text() + DIGITS)
    result = headway.ship(recipe, out=project / "out")
    assert result.bundle is not None
    drawing = np.zeros((80, 80), np.uint8)
    drawing[10:70, 35:45] = 255  # a one
    with headway.load(result.bundle) as model:
        assert model.predict({"scan": [encoded(drawing)]})["digit"].tolist() == [b"1"]
    again = headway.ship(recipe, out=project / "out", overrides=["processing.outputs.digit=[{take: logits}, argmax]"])
    assert again.bundle is not None
    with headway.load(again.bundle) as model:  # and not the bundle that was kept from before
        assert model.predict({"scan": [encoded(drawing)]})["digit"].tolist() == [1]


def test_a_wrong_declaration_is_refused_before_training(project: Path) -> None:
    recipe = project / "tiny.yaml"
    plain = recipe.read_text()
    for old, new, says in (
        ("feed: image", "feed: picture", "tiny.yaml:11: feed: the model has no input 'picture'"),
        ("take: logits", "take: logit", "tiny.yaml:13: take: the model has no output 'logit'"),
        (
            "argmax",
            "argmin",
            "tiny.yaml:13: processing.outputs.digit.1: unknown stage 'argmin'; did you mean 'argmax'?",
        ),
    ):
        recipe.write_text(plain + DIGITS.replace(old, new))
        with pytest.raises(ConfigError) as caught:
            headway.ship(recipe, out=project / "out", overrides=["train.epochs=100000"])
        assert says in str(caught.value)
    assert not (project / "out").exists()


def test_a_recipe_names_a_file(project: Path) -> None:
    recipe = project / "tiny.yaml"
    plain = recipe.read_text()
    recipe.write_text(plain + "processing: p.yaml\n")
    with pytest.raises(ConfigError, match=r"tiny.yaml:8: processing: no such file"):
        Recipe.load(recipe)
    (project / "p.yaml").write_text(DIGITS.replace("processing:", "", 1).replace("\n  ", "\n"))
    declaration = Recipe.load(recipe).processing
    assert declaration is not None
    assert list(declaration.declared.outputs) == ["digit"]
    (project / "p.yaml").write_text("outputs: {digit: [softmx]}")
    with pytest.raises(ConfigError, match=r"p.yaml:1: .*did you mean 'softmax'"):
        Recipe.load(recipe)


def test_a_bundle_is_not_replaced_by_a_wrong_one(tmp_path: Path) -> None:
    bundle = pack_pictures(tmp_path)
    with pytest.raises(ConfigError):
        pack_pictures(tmp_path, PICTURE.replace("feed: pixels", "feed: none"))
    bundle.verify()
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(BundleError, match="holds something else"):
        pack_pictures(tmp_path)
