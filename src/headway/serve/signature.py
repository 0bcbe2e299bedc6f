"""What a model takes: inputs are checked against it before they are queued, so that a wrong request fails alone."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.core.errors import RequestError
from headway.core.tensors import DYNAMIC, Array, TensorSpec

if TYPE_CHECKING:
    from headway.serve.padding import Padding


@dataclass(frozen=True, slots=True)
class Checked:
    """Inputs that fit.

    Attributes:
        inputs: in the model's order.
        rows: of every batched input; 1 where there is none.
        lane: what must agree for two requests to share a run (every dimension after the first that varies and is not
            padded); None shares no run.
        lengths: of the dimensions that are padded.
    """

    inputs: dict[str, Array]
    rows: int
    lane: Hashable
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rule:
    """A `TensorSpec`, ready for checks that every request pays for."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    batched: bool
    datatype: str

    def refuse(self, value: Array) -> None:
        where = f"input {self.name!r}"
        if value.dtype != self.dtype:
            wanted = f"{self.datatype} (numpy {self.dtype})"
            raise RequestError(f"the datatype must be {wanted}, not {value.dtype}", where=where)
        raise RequestError(f"shape {list(value.shape)} does not fit {list(self.shape)}", where=where)


class Signature:
    """The inputs of a model.

    Args:
        specs: the inputs.
        shares_runs: whether rows of several requests can be told apart in the outputs.
        padding: how rows of different lengths share a run, where they may.
    """

    def __init__(self, specs: Sequence[TensorSpec], *, shares_runs: bool, padding: "Padding | None" = None) -> None:
        self._rules = [_Rule(spec.name, spec.dtype, spec.shape, spec.batched, spec.datatype) for spec in specs]
        self._shares_runs = shares_runs
        self._padding = padding if shares_runs else None
        padded = () if self._padding is None else self._padding.names
        self._exact = [spec.name for spec in specs if spec.name not in padded and DYNAMIC in spec.shape[1:]]

    def check(self, inputs: Mapping[str, Array]) -> Checked:
        """The inputs, if they fit.

        Raises:
            RequestError: an input is missing or unknown, has the wrong datatype or shape, holds nothing, or has other
                rows or another length than the rest.
        """
        if len(inputs) != len(self._rules):
            self._refuse_names(inputs)
        ordered: dict[str, Array] = {}
        rows = 0
        for rule in self._rules:
            value = inputs.get(rule.name)
            if value is None:
                self._refuse_names(inputs)
                continue
            shape = value.shape
            text = rule.datatype == "BYTES" and value.dtype.kind in "SU"
            if (value.dtype != rule.dtype and not text) or not _admits(rule.shape, shape):
                rule.refuse(value)
            if rule.batched:
                if rows and rows != shape[0]:
                    raise RequestError(f"{shape[0]} rows, where other inputs have {rows}", where=f"input {rule.name!r}")
                rows = shape[0]
            ordered[rule.name] = value
        lane = tuple([ordered[name].shape[1:] for name in self._exact]) if self._shares_runs else None
        lengths = () if self._padding is None else self._padding.lengths(ordered)
        return Checked(ordered, rows or 1, lane, lengths)

    def _refuse_names(self, inputs: Mapping[str, Array]) -> None:
        known = [rule.name for rule in self._rules]
        unknown = [name for name in inputs if name not in known]
        missing = [name for name in known if name not in inputs]
        wrong = f"no input is called {unknown[0][:100]!r}" if unknown else f"input {missing[0]!r} is missing"
        raise RequestError(wrong, remedy=f"The inputs are: {', '.join(known)}.")


def _admits(wanted: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether `shape` fits and holds something."""
    return (
        len(wanted) == len(shape)
        and 0 not in shape
        and all(want in (have, DYNAMIC) for want, have in zip(wanted, shape, strict=True))
    )
