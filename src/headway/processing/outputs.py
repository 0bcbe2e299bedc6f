"""Outputs: from what a model answers to what a client wants. Every stage works along the last axis of all rows."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from headway.core.tensors import DYNAMIC
from headway.processing.stage import Flow, Kit, Stage

Array = NDArray[Any]

_FLOATS = ("FP16", "FP32", "FP64")


def _require_classes(given: Flow) -> None:
    given.require("tensor", "put it after take")
    if given.datatype in ("BYTES", "BOOL") or len(given.shape) < 2:
        raise ValueError(f"takes numbers of shape [rows, ..., classes], not {given.datatype} {list(given.shape)}")


class _Probability(Stage):
    """Base of what turns logits into probabilities."""

    def check(self, given: Flow, kit: Kit) -> Flow:
        """The same shape and datatype."""
        _require_classes(given)
        if given.datatype not in _FLOATS:
            raise ValueError(f"takes {', '.join(_FLOATS)}, not {given.datatype}")
        return given


class Softmax(_Probability):
    """Probabilities that add up to 1 along the last axis. FP16 is computed in FP32."""

    name: ClassVar[str] = "softmax"

    def open(self, kit: Kit) -> Callable[[Array], Array]:
        """Logits [rows, ..., classes] to probabilities, without overflow: the greatest logit is subtracted first."""

        def softmax(logits: Array) -> Array:
            with np.errstate(invalid="ignore", over="ignore"):  # infinite logits have no softmax: NaN says so
                wide = logits.astype(np.promote_types(logits.dtype, np.float32))
                wide -= wide.max(axis=-1, keepdims=True)
                np.exp(wide, out=wide)
                wide /= wide.sum(axis=-1, keepdims=True)
            return np.asarray(wide, logits.dtype)

        return softmax


class Sigmoid(_Probability):
    """A probability for each logit on its own. FP16 is computed in FP32."""

    name: ClassVar[str] = "sigmoid"

    def open(self, kit: Kit) -> Callable[[Array], Array]:
        """Logits to probabilities, without overflow: only exp(-|x|) is taken."""

        def sigmoid(logits: Array) -> Array:
            wide = logits.astype(np.promote_types(logits.dtype, np.float32))
            small = np.exp(-np.abs(wide))
            return np.asarray(np.where(wide >= 0, 1, small) / (1 + small), logits.dtype)

        return sigmoid


class Threshold(Stage):
    """Whether each value is at least so much: BOOL."""

    name: ClassVar[str] = "threshold"
    at: float = Field(0.5, description="The least value that is true.")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """Truth values of the same shape."""
        given.require("tensor", "put it after take")
        if given.datatype in ("BYTES", "BOOL"):
            raise ValueError(f"takes numbers, not {given.datatype}")
        return Flow("tensor", "BOOL", given.shape)

    def open(self, kit: Kit) -> Callable[[Array], Array]:
        """Numbers to truth values."""
        return lambda values: np.asarray(values >= self.at)


class TopK(Stage):
    """The greatest values along the last axis, greatest first; of equal ones, the lowest index first."""

    name: ClassVar[str] = "top_k"
    k: int = Field(ge=1, le=1 << 16, description="How many.")
    give: Literal["values", "indices"] = Field("values", description="The values, or their INT64 places.")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """`k` values or indices where there were all classes."""
        _require_classes(given)
        classes = given.shape[-1]
        if classes != DYNAMIC and self.k > classes:
            raise ValueError(f"the greatest {self.k} of {classes} classes: there are not so many")
        shape = (*given.shape[:-1], self.k if classes != DYNAMIC else DYNAMIC)
        return Flow("tensor", given.datatype, shape) if self.give == "values" else _indices(shape, classes)

    def open(self, kit: Kit) -> Callable[[Array], Array]:
        """Values [rows, ..., classes] to [rows, ..., k]."""

        def top_k(values: Array) -> Array:
            # Backwards, sorted stably, backwards again: descending with the lowest index first, for every datatype.
            order = np.argsort(values[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., : self.k]
            places: Array = values.shape[-1] - 1 - order
            return places if self.give == "indices" else np.take_along_axis(values, places, axis=-1)

        return top_k


class Argmax(Stage):
    """The INT64 index of the greatest value along the last axis; of equal ones, the lowest."""

    name: ClassVar[str] = "argmax"

    def check(self, given: Flow, kit: Kit) -> Flow:
        """An index where there were classes."""
        _require_classes(given)
        return _indices(given.shape[:-1], given.shape[-1])

    def open(self, kit: Kit) -> Callable[[Array], Array]:
        """Values [rows, ..., classes] to [rows, ...]."""
        return lambda values: np.asarray(values.argmax(axis=-1), np.int64)


class Labels(Stage):
    """The label of each index."""

    name: ClassVar[str] = "labels"

    def check(self, given: Flow, kit: Kit) -> Flow:
        """Text of the same shape."""
        if not given.classes:
            raise ValueError("takes indices: put it after argmax, or after top_k with `give: indices`")
        if not kit.labels:
            raise ValueError("the model has no labels")
        if given.classes not in (DYNAMIC, len(kit.labels)):
            raise ValueError(f"{len(kit.labels)} labels for {given.classes} classes")
        return Flow("tensor", "BYTES", given.shape)

    def open(self, kit: Kit) -> Callable[[Array], Array]:
        """Indices to BYTES of the same shape."""
        table = np.empty(len(kit.labels), dtype=object)
        table[:] = [label.encode() for label in kit.labels]
        return lambda indices: table[indices]


def _indices(shape: tuple[int, ...], classes: int) -> Flow:
    return Flow("tensor", "INT64", shape, classes=classes)
