"""Which rows each step sees, and at which learning rate: pure functions of the step's number.

Nothing here has state, so a resumed run needs no more than the number of the next step. A step is counted over all
processes: one that trains in several takes each process's share of `Plan.batches`.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from headway.tasks.parts import Indices
from headway.train.config import TrainConfig

_POOL = 32  # batches


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Attributes:
        rows: of the training part.
        config: how it is trained.
        lengths: of each row, where rows vary in length: batches are then made of rows of about one length.
    """

    rows: int
    config: TrainConfig
    lengths: tuple[int, ...] = ()

    @cached_property
    def _cuts(self) -> list[int]:
        """Where batches begin. A last batch of one row joins the one before: batch norm cannot train on one."""
        cuts = list(range(0, self.rows, self.config.batch_size))
        return cuts[:-1] if len(cuts) > 1 and self.rows - cuts[-1] == 1 else cuts

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a whole epoch; the last one may see fewer batches."""
        return math.ceil(len(self._cuts) / self.config.accumulate)

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole run, at least one."""
        return max(1, round(self.steps_per_epoch * self.config.epochs))

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that `step` is in."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` is the last of its epoch, or of the run."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.steps

    def batches(self, step: int) -> list[Indices]:
        """The rows of each batch whose gradients make up `step`."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = _order(self.rows, self.config.seed, epoch, self.config.batch_size, self.lengths)
        cuts = [*self._cuts, self.rows]
        first = index * self.config.accumulate
        last = min(first + self.config.accumulate, len(cuts) - 1)
        return [order[cuts[i] : cuts[i + 1]] for i in range(first, last)]

    def lr(self, step: int) -> float:
        """The learning rate of `step`: a straight rise, then half a cosine to zero (Loshchilov and Hutter 2017)."""
        warmup = round(self.config.warmup * self.steps)
        if step < warmup:
            return self.config.lr * (step + 1) / (warmup + 1)
        if self.config.schedule == "constant":
            return self.config.lr
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (self.steps - warmup)))


@lru_cache(maxsize=1)  # every step of an epoch asks for the same order
def _order(rows: int, seed: int, epoch: int, batch: int, lengths: tuple[int, ...]) -> Indices:
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(rows)
    if not lengths:
        return order
    # Batches drawn blindly would be half padding, or more. Rows are sorted by length in pools, which are drawn anew in
    # each epoch, and the batches shuffled.
    size, by_length = _POOL * batch, np.array(lengths)
    pools = np.split(order, range(size, rows, size))
    order = np.concatenate([pool[np.argsort(by_length[pool], kind="stable")] for pool in pools])
    whole = rows // batch * batch
    batches = draw.permutation(order[:whole].reshape(-1, batch))
    return np.concatenate([batches.reshape(-1), order[whole:]])
