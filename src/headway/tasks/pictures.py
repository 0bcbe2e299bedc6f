"""A task on pictures in folders, one folder a class, with a MobileNetV2.

The files are read by the stages that a bundle declares (`headway.processing`), so a model is trained on the pixels that
it is served.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError, RequestError
from headway.core.tensors import Array
from headway.processing.pictures import Decode, Resize, pixels
from headway.processing.stage import Kit
from headway.tasks.parts import Indices, Inputs, Parts
from headway.tasks.task import Task

if TYPE_CHECKING:
    import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, as torchvision's weights expect
_SUFFIXES = (".jpg", ".jpeg", ".png")


class Pictures:
    """A part that holds 8-bit pixels and gives normalised floats.

    Args:
        pixels: uint8, [N, H, W, 3].
        targets: classes, [N].
    """

    def __init__(self, pixels: NDArray[np.uint8], targets: NDArray[np.int64]) -> None:
        self.pixels, self.targets = pixels, targets

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: Indices) -> tuple[Inputs, Array]:
        """ "image", float32 [len(rows), 3, H, W], and classes."""
        image = self.pixels[rows].transpose(0, 3, 1, 2).astype(np.float32)
        image /= 255
        image -= np.array(MEAN, np.float32).reshape(-1, 1, 1)
        image /= np.array(STD, np.float32).reshape(-1, 1, 1)
        return {"image": np.ascontiguousarray(image)}, self.targets[rows]

    def digest(self) -> str:
        """SHA-256 over shape, pixels and classes."""
        total = hashlib.sha256(f"{self.pixels.shape}".encode())
        total.update(np.ascontiguousarray(self.pixels).data)
        total.update(np.ascontiguousarray(self.targets).data)
        return total.hexdigest()


def folders(
    folder: str,
    side: int = 224,
    width: float = 1.0,
    weights: str | None = None,
    fractions: Sequence[float] = (0.6, 0.1, 0.1, 0.2),
    seed: int = 0,
) -> Task:
    """Pictures in a folder for each class, for a MobileNetV2.

    Args:
        folder: holds a folder for each class, which holds JPEG and PNG files; whatever is deeper is not looked at.
        side: pixels that pictures are scaled to, in height and width.
        width: of the network: 1 makes 2.2M parameters.
        weights: safetensors file to start the network's features from, under torchvision's names.
        fractions: of each class's rows, for train, calibration, selection and test.
        seed: of the split.

    Returns:
        A task with input "image", float32 [N, 3, side, side], normalised as for ImageNet, and a class for each folder,
        in alphabetical order.

    Raises:
        DataError: there are no two classes, or a file is damaged.
        MissingDependencyError: Pillow is not installed.
    """
    found, classes, labels = read(Path(folder).expanduser(), side)
    rows = stratified(classes, fractions, seed)
    return task(Parts(*(Pictures(found[chosen], classes[chosen]) for chosen in rows)), labels, width, weights)


def task(parts: Parts, labels: tuple[str, ...], width: float = 1.0, weights: str | Path | None = None) -> Task:
    """The task of parts that are made already; see `folders`."""
    place = Path(weights).expanduser() if weights else None
    model = partial(_mobilenet, len(labels), width, place)
    return Task(parts=parts, model=model, augment=_turn, labels=labels)


def read(folder: Path, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Pictures, [N, side, side, 3], their classes, [N], and the classes' names; see `folders`."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [
        (path, number)
        for number, name in enumerate(names)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in _SUFFIXES
    ]
    classes = np.array([number for _, number in files], np.int64)
    if len(np.unique(classes)) < max(2, len(names)):
        raise DataError(
            "needs two folders or more, each with pictures of a class", where=str(folder), remedy="JPEG or PNG files."
        )
    decode, resize = Decode(mode="RGB").open(Kit()), Resize(height=side, width=side).open(Kit())
    found = np.empty((len(files), side, side, 3), np.uint8)
    for row, (path, _) in enumerate(files):
        try:
            found[row] = pixels(resize(decode(path.read_bytes())))
        except RequestError as error:
            raise DataError(str(error), where=str(path)) from error
    return found, classes, tuple(names)


def stratified(classes: NDArray[np.int64], fractions: Sequence[float], seed: int) -> list[Indices]:
    """Rows in as many parts as there are fractions, in ascending order, each with its share of every class."""
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"fractions must be positive and add up to 1, got {tuple(fractions)}")
    random, parts = np.random.default_rng(seed), [np.empty(0, np.int64) for _ in fractions]
    for number in np.unique(classes):
        rows = random.permutation(np.flatnonzero(classes == number))
        cuts = np.rint(np.cumsum(fractions)[:-1] * len(rows)).astype(int)
        parts = [np.append(part, more) for part, more in zip(parts, np.split(rows, cuts), strict=True)]
    return [np.sort(part) for part in parts]


def _mobilenet(num_classes: int, width: float, weights: Path | None) -> "torch.nn.Module":
    from headway.tasks.mobilenet import mobilenet_v2

    return mobilenet_v2(num_classes, width, weights)


def _turn(inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    from headway.tasks.augment import turn_images

    return turn_images(inputs)
