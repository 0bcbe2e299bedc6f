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


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Attributes:
        rows: of the training part.
        config: how it is trained.
    """

    rows: int
    config: TrainConfig

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
        order = _order(self.rows, self.config.seed, epoch)
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
def _order(rows: int, seed: int, epoch: int) -> Indices:
    return np.random.default_rng([seed, epoch]).permutation(rows)
