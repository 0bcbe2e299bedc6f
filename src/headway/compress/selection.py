"""Which channels go, so that a share of the parameters is left and every width suits the machine's kernels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headway.compress.channels import Budget, Group, Indices
from headway.compress.importance import Scores


@dataclass
class _Queue:
    """A group's channels in the order in which they would go, least important first.

    A column is one channel of each of the group's folded parts; columns go a block at a time.
    """

    group: Group
    order: Indices  # [columns]
    scores: Scores  # of the columns in that order
    block: int
    least: int  # columns that stay
    gone: int = 0

    def next(self) -> int:
        """Columns of the next block; 0 where none may go. The first brings the width to a multiple."""
        left = len(self.order) - self.gone
        after = (left - 1) // self.block * self.block
        return left - after if after >= max(self.least, 1) else 0

    def loss(self, columns: int) -> float:
        """Importance of the next columns."""
        return float(self.scores[self.gone : self.gone + columns].sum())

    def channels(self) -> Indices:
        """The channels that go."""
        columns = len(self.order)
        return np.sort(np.concatenate([self.order[: self.gone] + part * columns for part in range(self.group.fold)]))


def select(
    budget: Budget,
    found: Sequence[Group],
    scores: Sequence[Scores],
    target: int,
    *,
    round_to: int,
    least: Mapping[str, int],
) -> list[tuple[Group, Indices]]:
    """The channels to take from each group so that about `target` parameters are left.

    Blocks of channels go one after the other, always the one of least importance for each parameter freed. The last
    one is the block that lands nearest to the target.

    Args:
        budget: counts; it is spent.
        found: the groups.
        scores: of each group's channels, [channels].
        target: parameters to be left.
        round_to: widths become multiples of it, as far as channels go at all.
        least: channels that stay in each group, by its name.
    """
    queues = [_queue(group, values, round_to, least[group.name]) for group, values in zip(found, scores, strict=True)]
    while budget.total > target:
        offers = []
        for queue in queues:
            if columns := queue.next():
                freed = budget.cost(queue.group, columns * queue.group.fold)
                offers.append((queue.loss(columns) / max(1, freed), freed, columns, queue))
        if not offers:
            break
        _, freed, columns, queue = min(offers, key=lambda offer: offer[0])
        if budget.total - freed < target:
            _, freed, columns, queue = min(offers, key=lambda offer: abs(budget.total - offer[1] - target))
            if abs(budget.total - freed - target) >= budget.total - target:
                break
        budget.spend(queue.group, columns * queue.group.fold)
        queue.gone += columns
    return [(queue.group, queue.channels()) for queue in queues if queue.gone]


def smallest(budget: Budget, found: Sequence[Group], *, round_to: int, least: Mapping[str, int]) -> int:
    """Parameters left when everything goes that may."""
    even = [np.zeros(group.channels) for group in found]
    select(budget, found, even, 0, round_to=round_to, least=least)
    return budget.total


def _queue(group: Group, scores: Scores, round_to: int, least: int) -> _Queue:
    columns = group.channels // group.fold
    values = scores.reshape(group.fold, columns).mean(axis=0)
    order = np.argsort(values, kind="stable")
    block = math.lcm(round_to, group.fold) // group.fold
    return _Queue(group, order, values[order], block, math.ceil(least / group.fold))
