"""Data in four parts that share no row: train, calibration, selection and test.

Training sees `train`; quantization ranges come from `calibration`; steps that choose between candidates measure them on
`selection`; `test` is read once, for what is reported.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError
from headway.core.tensors import Array

Inputs = dict[str, Array]
Indices = NDArray[np.int64]


@runtime_checkable
class Part(Protocol):
    """Rows that can be asked for by number.

    A part whose batches take long to make (files to read, pictures to decode) may say so with an attribute
    `costly = True`: training then prepares them in processes of their own, to which the part is sent by pickle.
    """

    def __len__(self) -> int: ...

    def batch(self, rows: Indices) -> tuple[Inputs, Array]:
        """Inputs by name, each [len(rows), ...], and targets, [len(rows), ...]."""

    def digest(self) -> str:
        """SHA-256 of the content, as 64 hex digits."""


class Arrays:
    """A part held in memory.

    Args:
        inputs: one array, [N, ...], which is then called "input", or arrays by name.
        targets: [N, ...]; integer classes for accuracy.
    """

    def __init__(self, inputs: Array | Mapping[str, Array], targets: Array) -> None:
        named = dict(inputs) if isinstance(inputs, Mapping) else {"input": inputs}
        self.inputs: Inputs = {name: np.ascontiguousarray(value) for name, value in named.items()}
        self.targets: Array = np.ascontiguousarray(targets)
        for name, value in self.inputs.items():
            if len(value) != len(self.targets):
                raise DataError(f"{len(value)} rows of {name!r} but {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: Indices) -> tuple[Inputs, Array]:
        """The rows asked for, in that order."""
        return {name: value[rows] for name, value in self.inputs.items()}, self.targets[rows]

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes."""
        total = hashlib.sha256()
        for name, value in [*sorted(self.inputs.items()), ("", self.targets)]:
            total.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
            total.update(value.data)
        return total.hexdigest()


class Subset:
    """Some rows of another part, in another order.

    Args:
        part: the whole.
        rows: of it, [N].
    """

    def __init__(self, part: Part, rows: Indices) -> None:
        self._part, self._rows = part, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def costly(self) -> bool:
        """Whether the whole is."""
        return bool(getattr(self._part, "costly", False))

    def batch(self, rows: Indices) -> tuple[Inputs, Array]:
        """The rows asked for, numbered within this part."""
        return self._part.batch(self._rows[rows])

    def digest(self) -> str:
        """SHA-256 over the whole's digest and the rows."""
        return hashlib.sha256(self._part.digest().encode() + self._rows.tobytes()).hexdigest()


@dataclass(frozen=True)
class Parts:
    """The four parts."""

    train: Part
    calibration: Part
    selection: Part
    test: Part

    def digest(self) -> str:
        """SHA-256 over the four parts' digests, in order."""
        return hashlib.sha256("".join(getattr(self, part.name).digest() for part in fields(self)).encode()).hexdigest()


def split(
    inputs: Array | Mapping[str, Array],
    targets: Array,
    *,
    fractions: Sequence[float] = (0.6, 0.1, 0.1, 0.2),
    seed: int = 0,
) -> Parts:
    """Shuffle the rows once and cut them into the four parts.

    Args:
        inputs: one array or arrays by name, each [N, ...].
        targets: [N, ...].
        fractions: of the rows, for train, calibration, selection and test; they add up to 1.
        seed: of the shuffle.
    """
    if len(fractions) != 4 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"fractions must be four positive numbers that add up to 1, got {tuple(fractions)}")
    whole = Arrays(inputs, targets)
    order = np.random.default_rng(seed).permutation(len(whole))
    cuts = np.rint(np.cumsum(fractions)[:3] * len(whole)).astype(int)
    return Parts(*(Arrays(*whole.batch(rows)) for rows in np.split(order, cuts)))
