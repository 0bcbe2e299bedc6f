"""Pictures in folders: read as they are served, split by class, trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headway.core.errors import DataError
from headway.processing.pictures import Decode, Normalise, Resize
from headway.processing.stage import Kit
from headway.tasks.factory import build_model
from headway.tasks.pictures import MEAN, STD, folders, read, stratified
from headway.train.config import TrainConfig
from headway.train.loop import fit


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve grey and twenty coloured pictures in two folders, and a file that is none."""
    draw = np.random.default_rng(0)
    for label, count, shape in (("cracked", 12, (40, 36)), ("whole", 20, (33, 50, 3))):
        (tmp_path / label).mkdir()
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "whole" / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_row_is_what_the_same_stages_serve(photos: Path) -> None:
    task = folders(str(photos), side=32, width=0.25)
    assert task.labels == ("cracked", "whole")
    pixels, classes, _ = read(photos, 32)
    _, _, _, test = stratified(classes, (0.6, 0.1, 0.1, 0.2), 0)
    picture = Resize(height=32, width=32).open(Kit())(
        Decode().open(Kit())((photos / "cracked" / f"{sorted(map(str, range(12)))[test[0]]}.png").read_bytes())
    )
    served = Normalise(mean=MEAN, std=STD).open(Kit())(picture).transpose(2, 0, 1)
    inputs, targets = task.parts.test.batch(np.array([0]))
    assert np.array_equal(inputs["image"][0], served)
    assert targets[0] == 0
    assert inputs["image"].dtype == np.float32
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 32, 32, 3))


def test_parts_share_no_row_and_have_their_share_of_each_class() -> None:
    classes = np.repeat([0, 1], [100, 900])
    parts = stratified(classes, (0.5, 0.1, 0.1, 0.3), seed=3)
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert [(classes[part] == 0).sum() for part in parts] == [50, 10, 10, 30]
    assert not np.array_equal(parts[0], stratified(classes, (0.5, 0.1, 0.1, 0.3), seed=4)[0])
    with pytest.raises(DataError, match="add up to 1"):
        stratified(classes, (0.5, 0.1), 0)


def test_the_digest_is_of_pixels_and_classes(photos: Path) -> None:
    before = folders(str(photos), side=32, width=0.25).parts.digest()
    assert folders(str(photos), side=32, width=0.25).parts.digest() == before
    assert folders(str(photos), side=33, width=0.25).parts.digest() != before


def test_it_trains(photos: Path) -> None:
    task = folders(str(photos), side=32, width=0.25)
    assert np.isfinite(fit(build_model(task), task, TrainConfig(epochs=1, batch_size=16, threads=1)).loss)


def test_what_is_no_folder_of_classes_or_no_picture_is_refused(photos: Path) -> None:
    with pytest.raises(DataError, match="two folders"):
        folders(str(photos / "nowhere"))
    (photos / "whole" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"damaged") as caught:
        folders(str(photos))
    assert "0.png" in str(caught.value.where)
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="two folders"):
        folders(str(photos))
