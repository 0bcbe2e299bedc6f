"""Requests that wait, and the queue of those that can share a run."""

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

Payload = TypeVar("Payload")

LEVELS = 10
"""Levels of priority."""


@dataclass(slots=True, eq=False)
class Job(Generic[Payload]):
    """One accepted request.

    Attributes:
        payload: the caller's; not looked at here.
        rows: at least 1.
        lane: what must agree for two requests to share a run; None runs alone.
        arrived: seconds on the caller's clock.
        deadline: on the same clock; it does not run from then on.
        lengths: of the dimensions that are padded. Requests of one lane have equally many.
        priority: from 1, the highest, to `LEVELS`; 0 until it is queued is the default.
        size: elements of a row: the product of its lengths.
        due: who goes first; set when it is queued.
    """

    payload: Payload
    rows: int
    lane: Hashable
    arrived: float
    deadline: float = float("inf")
    lengths: tuple[int, ...] = ()
    priority: int = 0
    size: int = 1
    due: float = 0.0


by_due = attrgetter("due")


class Lane(Generic[Payload]):
    """Requests that can share runs: a queue for each level, each in order of arrival and so of `due`."""

    __slots__ = ("cost", "levels", "rows")

    def __init__(self) -> None:
        self.levels: dict[int, OrderedDict[Job[Payload], None]] = {}
        self.rows = self.cost = 0

    def add(self, job: Job[Payload]) -> None:
        level = self.levels.get(job.priority)
        if level is None:
            level = self.levels[job.priority] = OrderedDict()
        level[job] = None
        self.rows += job.rows
        self.cost += job.rows * job.size

    def remove(self, job: Job[Payload]) -> None:
        level = self.levels[job.priority]
        del level[job]
        if not level:
            del self.levels[job.priority]
        self.rows -= job.rows
        self.cost -= job.rows * job.size

    def __contains__(self, job: Job[Payload]) -> bool:
        return job in self.levels.get(job.priority, ())

    def in_turn(self) -> Iterable[Job[Payload]]:
        """Every request, in the order in which they go first."""
        if len(self.levels) == 1:
            (level,) = self.levels.values()
            return level
        return heapq.merge(*self.levels.values(), key=by_due)

    def heads(self) -> list[Job[Payload]]:
        """The first of each level, which is its oldest."""
        return [next(iter(level)) for level in self.levels.values()]
