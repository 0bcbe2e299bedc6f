"""The two tasks on real pictures."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.idx_files import write

from headway.core.errors import DataError
from headway.tasks.checks import check
from headway.tasks.factory import build_model
from headway.tasks.images import FASHION_LABELS, FASHION_MNIST, digits, fashion_mnist


def test_digits_are_what_scikit_learn_ships() -> None:
    task = digits()
    parts = task.parts
    assert [len(p) for p in (parts.train, parts.calibration, parts.selection, parts.test)] == [719, 144, 125, 809]
    inputs, targets = parts.test.batch(np.arange(809))
    assert inputs["image"].shape == (809, 1, 8, 8)
    assert inputs["image"].dtype == np.float32
    assert (inputs["image"].min(), inputs["image"].max()) == (0, 1)
    assert set(targets.tolist()) == set(range(10))
    assert task.labels == tuple("0123456789")
    assert sum(parameter.numel() for parameter in build_model(task).parameters()) == 1_147_722
    check(task)


def test_the_split_follows_the_seed_alone() -> None:
    assert digits().parts.digest() == digits().parts.digest()
    assert digits().parts.digest() != digits(seed=1).parts.digest()


def test_a_task_can_be_sent_to_another_process() -> None:
    task = pickle.loads(pickle.dumps(digits(width=4)))  # noqa: S301  (our own bytes)
    assert build_model(task)(_first(task)).shape == (1, 10)


def _first(task: object) -> object:
    import torch

    return torch.from_numpy(task.parts.train.batch(np.arange(1))[0]["image"])  # type: ignore[attr-defined]


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_debian_packs_it() -> None:
    task = fashion_mnist()
    parts = task.parts
    assert [len(p) for p in (parts.train, parts.calibration, parts.selection, parts.test)] == [
        55_000, 1_000, 4_000, 10_000,
    ]  # fmt: skip
    _, targets = parts.test.batch(np.arange(10_000))
    assert np.bincount(targets).tolist() == [1000] * 10
    assert sum(parameter.numel() for parameter in build_model(task).parameters()) == 308_538
    check(task)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_ones_own(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, packed=packed)
    task = fashion_mnist(str(tmp_path), width=2, calibration_rows=5, selection_rows=6, train_rows=20)
    parts = task.parts
    assert [len(p) for p in (parts.train, parts.calibration, parts.selection, parts.test)] == [20, 5, 6, 40]
    assert parts.train.batch(np.arange(20))[0]["image"].max() <= 1
    assert task.labels == FASHION_LABELS
    check(task)


def test_a_missing_folder_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fashion_mnist(str(tmp_path / "none"))
    assert "apt-get install dataset-fashion-mnist" in str(caught.value)
    assert "folder" in str(caught.value)


def test_a_missing_file_too_few_rows_and_wrong_content_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="40 rows are too few for 1,000 calibration, 4,000 selection and 1 training"):
        fashion_mnist(str(tmp_path))
    write(tmp_path, side=27)
    with pytest.raises(DataError, match=r"\(27, 27\), not \(28, 28\)"):
        fashion_mnist(str(tmp_path))
    write(tmp_path, labels=11)
    with pytest.raises(DataError, match="label 10 of 'train' is not one of the ten classes"):
        fashion_mnist(str(tmp_path))
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"):
        fashion_mnist(str(tmp_path), calibration_rows=5, selection_rows=5)
