"""Rows of token ids, of any number each: a batch is padded to its longest row, and a row alone not at all."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError
from headway.core.tensors import Array
from headway.tasks.parts import Indices, Inputs

TOKENS = "tokens"  # the dimension that varies
VARYING = {"input_ids": {1: TOKENS}, "attention_mask": {1: TOKENS}}
PADDING = {"input_ids": 0.0, "attention_mask": 0.0}


class TokenRows:
    """A part whose rows are texts, as a tokenizer gives them.

    Args:
        rows: token ids of each text, [tokens]; at least one each.
        targets: [N]; whole numbers of classes.

    Attributes:
        lengths: tokens of each row, [N].
    """

    def __init__(self, rows: Sequence[Sequence[int]], targets: Array) -> None:
        if len(rows) != len(targets):
            raise DataError(f"{len(rows)} texts but {len(targets)} targets")
        self._rows = [np.asarray(row, np.int64) for row in rows]
        self._targets = np.ascontiguousarray(targets)
        self.lengths: NDArray[np.int64] = np.array([len(row) for row in self._rows], np.int64)
        if not self.lengths.all():
            raise DataError(f"text {int(self.lengths.argmin())} has no tokens")

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: Indices) -> tuple[Inputs, Array]:
        """`input_ids` and `attention_mask` (1 for tokens, 0 for padding), int64 [len(rows), longest of them]."""
        ids = np.zeros((len(rows), self.lengths[rows].max(initial=1)), np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : self.lengths[row]], mask[place, : self.lengths[row]] = self._rows[row], 1
        return {"input_ids": ids, "attention_mask": mask}, self._targets[rows]

    def digest(self) -> str:
        """SHA-256 over lengths, ids and targets."""
        total = hashlib.sha256()
        for value in (self.lengths, *self._rows, self._targets):
            total.update(value.tobytes())
        return total.hexdigest()
