"""Which requests of different lengths share a run.

Rows of one run have one length, so shorter ones are padded, and the run costs rows * longest where it answers only the
sum of the lengths. How much padding pays follows from what a run costs beside its elements: its time goes with `padded
+ overhead` (`durations.py` learns the overhead, b/a). So a batch grows from the oldest request outwards, each time by
the neighbour in length that is worth more, for as long as

    real elements / (padded elements + overhead)

rises. Where a run costs little beside its elements only near lengths are joined, and otherwise more padding pays; in no
batch is the padding more than `max_padding` of the real elements. The oldest request is in every batch, so that none
waits for ever for others of its length.

Lengths are tuples, such as height and width, padded to the largest in each. The size of a row is their product.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple, Protocol, TypeVar


class Sized(Protocol):
    """What is used of a request.

    Attributes:
        rows: at least 1.
        lengths: of the dimensions that are padded.
        size: their product.
    """

    rows: int
    lengths: tuple[int, ...]
    size: int


Request = TypeVar("Request", bound=Sized)


def pick(waiting: Sequence[Request], *, max_rows: int, max_padding: float, overhead: float) -> list[Request]:
    """The batch that starts now, the oldest request first.

    Args:
        waiting: the oldest first; it is in the batch whatever its rows and lengths.
        max_rows: rows of the batch.
        max_padding: what padding may add, as a share of the real elements.
        overhead: what a run costs beside its elements, in elements.
    """
    oldest, others = waiting[0], waiting[:0:-1]
    # Stacks with the nearest size on top, and the older request where two are alike.
    shorter = sorted((other for other in others if other.size < oldest.size), key=_size)
    longer = sorted((other for other in others if other.size >= oldest.size), key=_size, reverse=True)
    batch, shape = [oldest], _Shape(oldest.rows, oldest.lengths, oldest.size * oldest.rows)
    worth = shape.worth(overhead)
    while True:
        better: list[Request] | None = None
        for stack in (shorter, longer):
            while stack and shape.rows + stack[-1].rows > max_rows:
                stack.pop()  # it waits for a batch with more room
            if not stack:
                continue
            joined = shape.beside(stack[-1])
            if joined.padded <= (1 + max_padding) * joined.real and joined.worth(overhead) > worth:
                better, best, worth = stack, joined, joined.worth(overhead)
        if better is None:
            return batch
        shape = best
        batch.append(better.pop())


class _Shape(NamedTuple):
    """Of a batch: its rows, the largest of each length, and the elements that are no padding."""

    rows: int
    longest: tuple[int, ...]
    real: int

    @property
    def padded(self) -> int:
        return self.rows * prod(self.longest)

    def worth(self, overhead: float) -> float:
        return self.real / (self.padded + overhead)

    def beside(self, other: Sized) -> "_Shape":
        longest = tuple(map(max, self.longest, other.lengths))
        return _Shape(self.rows + other.rows, longest, self.real + other.rows * other.size)


def _size(request: Sized) -> int:
    return request.size
