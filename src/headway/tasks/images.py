"""Two tasks on real pictures: digits (8x8, comes with scikit-learn) and Fashion-MNIST (28x28, read from idx files)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError
from headway.core.plugins import missing
from headway.tasks.idx import read_idx
from headway.tasks.parts import Arrays, Parts, split
from headway.tasks.task import Task

if TYPE_CHECKING:
    import torch

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
FASHION_LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def digits(width: int = 64, seed: int = 0, fractions: Sequence[float] = (0.4, 0.08, 0.07, 0.45)) -> Task:
    """Handwritten digits: 1,797 grey pictures (Alpaydin and Kaynak 1998, UCI Optical Recognition test set).

    The test part is large because the gate decides on its evidence alone.

    Args:
        width: channels of the network's first blocks; 64 makes 1.15M parameters.
        seed: of the split.
        fractions: of the rows, for train, calibration, selection and test.

    Returns:
        A task with input "image", float32 [N, 1, 8, 8] in 0..1, and ten classes.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise missing("scikit-learn", needed_by="task digits") from error
    pixels, targets = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    return Task(
        parts=split({"image": images}, targets.astype(np.int64), fractions=fractions, seed=seed),
        model=partial(_convnet, width),
        augment=_shift,
        labels=tuple("0123456789"),
    )


def fashion_mnist(
    folder: str | None = None,
    width: int = 16,
    blocks: Sequence[int] = (1, 1, 1, 1),
    calibration_rows: int = 1_000,
    selection_rows: int = 4_000,
    train_rows: int | None = None,
    seed: int = 0,
) -> Task:
    """Fashion-MNIST (Xiao et al. 2017): 70,000 grey pictures of clothes; the official test rows are the test part.

    Args:
        folder: where the four idx files lie, gzipped or plain; by default where Debian's package puts them.
        width: channels of the residual network's first stage; 16 makes 0.31M parameters.
        blocks: residual blocks in each stage.
        calibration_rows: taken from the official training rows.
        selection_rows: taken from the official training rows.
        train_rows: use only so many training rows; None is all that are left.
        seed: of the split.

    Returns:
        A task with input "image", float32 [N, 1, 28, 28] in 0..1, and ten classes.

    Raises:
        DataError: the folder or a file is missing, or has too few rows.
        FormatError: a file is not in the idx format, or damaged.
    """
    place = Path(folder).expanduser() if folder else FASHION_MNIST
    if not place.is_dir():
        raise DataError(
            "no such folder; Fashion-MNIST's idx files should lie there",
            where=str(place),
            remedy="Install them with `apt-get install dataset-fashion-mnist`, or pass `folder`.",
        )
    images, labels = _read(place, "train")
    order = np.random.default_rng(seed).permutation(len(labels))
    calibration, selection, train = np.split(order, [calibration_rows, calibration_rows + selection_rows])
    if len(train) < (train_rows or 1):
        raise DataError(
            f"{len(labels):,} rows are too few for {calibration_rows:,} calibration, {selection_rows:,} selection "
            f"and {train_rows or 1:,} training rows",
            where=str(place),
        )
    return Task(
        parts=Parts(
            train=_part(images, labels, train[:train_rows]),
            calibration=_part(images, labels, calibration),
            selection=_part(images, labels, selection),
            test=_part(*_read(place, "t10k")),
        ),
        model=partial(_resnet, tuple(blocks), width),
        augment=_flip_and_shift,
        labels=FASHION_LABELS,
    )


def _read(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures, [N, 28, 28], and classes, [N], of "train" or "t10k"."""
    images = read_idx(_find(folder, f"{name}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{name}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"pictures of {name!r} are {images.shape[1:]}, not (28, 28)", where=str(folder))
    if len(images) != len(labels):
        raise DataError(f"{len(images):,} pictures but {len(labels):,} labels of {name!r}", where=str(folder))
    if len(labels) and labels.max() >= len(FASHION_LABELS):
        raise DataError(f"label {labels.max()} of {name!r} is not one of the ten classes", where=str(folder))
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"no {name} or {name}.gz", where=str(folder))


def _part(images: NDArray[np.uint8], labels: NDArray[np.uint8], rows: NDArray[np.int64] | None = None) -> Arrays:
    chosen = slice(None) if rows is None else rows
    return Arrays({"image": images[chosen, None].astype(np.float32) / 255}, labels[chosen].astype(np.int64))


# The networks and their augmentation need torch, which a recipe's check does not: they are imported when called.
# Module-level functions, so that a task can be sent to another process.


def _convnet(width: int) -> "torch.nn.Module":
    from headway.tasks.cnn import ConvNet

    return ConvNet(width)


def _resnet(blocks: tuple[int, ...], width: int) -> "torch.nn.Module":
    from headway.tasks.resnet import ResNet

    return ResNet(blocks, width)


def _shift(inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    from headway.tasks.augment import shift_images

    return shift_images(inputs)


def _flip_and_shift(inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    from headway.tasks.augment import flip_and_shift_images

    return flip_and_shift_images(inputs)
