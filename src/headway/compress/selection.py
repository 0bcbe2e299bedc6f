"""Which channels go, so that a share of the parameters is left and every width suits the machine's kernels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from headway.compress.channels import Group, Indices
from headway.compress.importance import Scores

Scope = Literal["global", "layer"]


class Budget(Protocol):
    """What a model costs: parameters, or time. All are whole numbers."""

    @property
    def total(self) -> int:
        """Of the whole model."""

    def cost(self, group: Group, channels: int) -> int:
        """What goes with so many of the group's channels."""

    def spend(self, group: Group, channels: int) -> int:
        """Take so many channels off the group; returns what went."""


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

    def left(self, whole: Mapping[str, int] | None) -> float:
        """Share of the group's channels that is left."""
        channels = (len(self.order) - self.gone) * self.group.fold
        return channels / (whole or {}).get(self.group.name, self.group.channels)

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
    blocks: Mapping[str, int],
    least: Mapping[str, int],
    scope: Scope = "global",
    whole: Mapping[str, int] | None = None,
) -> list[tuple[Group, Indices]]:
    """The channels to take from each group so that about `target` of the budget is left.

    Blocks of channels go one after the other: with the scope `global`, always the one of least importance for each
    unit of the budget freed; with `layer`, always one of the group that has lost the least share of its channels, so
    that all end at about the same share. The last one is the block that lands nearest to the target.

    Args:
        budget: counts; it is spent.
        found: the groups.
        scores: of each group's channels, [channels].
        target: what is to be left of the budget.
        blocks: widths become multiples of these, by the group's name, as far as channels go at all.
        least: channels that stay in each group, by its name.
        whole: by its name, channels that each group had before any round; for the scope `layer`.
    """
    queues = [
        _queue(group, values, blocks[group.name], least[group.name])
        for group, values in zip(found, scores, strict=True)
    ]
    while budget.total > target:
        offers = []
        for queue in queues:
            if columns := queue.next():
                freed = budget.cost(queue.group, columns * queue.group.fold)
                if freed <= 0:
                    continue  # as far as time can be told
                rank = -queue.left(whole) if scope == "layer" else queue.loss(columns) / max(1, freed)
                offers.append((rank, freed, columns, queue))
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


def smallest(budget: Budget, found: Sequence[Group], *, blocks: Mapping[str, int], least: Mapping[str, int]) -> int:
    """What is left of the budget when everything goes that may."""
    even = [np.zeros(group.channels) for group in found]
    select(budget, found, even, 0, blocks=blocks, least=least)
    return budget.total


def _queue(group: Group, scores: Scores, width: int, least: int) -> _Queue:
    columns = group.channels // group.fold
    values = scores.reshape(group.fold, columns).mean(axis=0)
    order = np.argsort(values, kind="stable")
    block = math.lcm(width, group.fold) // group.fold
    return _Queue(group, order, values[order], block, math.ceil(least / group.fold))
