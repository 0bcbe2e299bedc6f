"""Answers in memory, bounded in bytes: which stay and which go.

**Eviction** is S3-FIFO (Yang, Zhang, Qiu, Yue and Vinayak, SOSP 2023) with sizes in bytes. A new answer begins in a
small queue of a tenth of the room. If it is asked for again before it comes to the queue's end, it moves on to the main
queue; if not, it goes, and only its key is remembered, among the ghosts. An answer whose key is a ghost begins in the
main queue. There, what was asked for since it last came to the end goes round again, up to three times. So inputs that
come once, a scan over a data set say, pass through a tenth of the memory and push out nothing that is in use; and a hit
moves nothing, it only counts. `docs/decisions/0027-cache.md` compares it with LRU.
"""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from headway.core.tensors import Array
from headway.observe.cache_counts import CacheCounts

Arrays = Mapping[str, Array]

_ENTRY_BYTES = 400  # the key, the entry, and its place in a queue
_GHOST_BYTES = 220  # the key and its place in a queue
_MOST_USES = 3
_NEW_SHARE = 10  # one part in so many is for new answers


class Owner(Protocol):
    """Whose answers these are."""

    counts: CacheCounts


@dataclass(slots=True)
class _Entry:
    owner: Owner
    outputs: Arrays
    size: int
    uses: int = 0


_Queue = OrderedDict[bytes, _Entry]


class AnswerStore:
    """The answers of every model of a server. Not thread-safe: one event loop owns it.

    Attributes:
        capacity: bytes that everything in it may take.
        largest: bytes of an answer that is kept, and of all new ones together: a larger one would push out the rest.
        used: bytes that it takes, keys and ghosts included.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.largest = capacity // _NEW_SHARE
        self.used = 0
        self._new: _Queue = OrderedDict()
        self._main: _Queue = OrderedDict()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()
        self._new_bytes = 0

    def get(self, key: bytes) -> Arrays | None:
        """The answer, if it is here. Its arrays are shared and read-only."""
        entry = self._new.get(key) or self._main.get(key)
        if entry is None:
            return None
        if entry.uses < _MOST_USES:
            entry.uses += 1
        return entry.outputs

    def put(self, key: bytes, outputs: Arrays, size: int, owner: Owner) -> None:
        """Keep an answer, if it is not here already.

        Args:
            key: of the request.
            outputs: from `frozen`.
            size: its `size_of`. What is larger than `largest` is not kept.
            owner: by which it can be forgotten.
        """
        if size > self.largest or key in self._new or key in self._main:
            return
        entry = _Entry(owner, outputs, size)
        if key in self._ghosts:
            self._forget_ghost(key)
            self._main[key] = entry
        else:
            self._new[key] = entry
            self._new_bytes += size
        self.used += size
        owner.counts.entries += 1
        owner.counts.bytes += size
        while self.used > self.capacity:
            self._make_room()

    def forget(self, owner: Owner) -> None:
        """Drop every answer of one owner, and the ghosts, of which nobody knows whose they are."""
        for queue in (self._new, self._main):
            for key in [key for key, entry in queue.items() if entry.owner is owner]:
                self._remove(queue, key)
        while self._ghosts:
            self._forget_ghost(next(iter(self._ghosts)))

    def _make_room(self) -> None:
        """One step: something goes, moves on, or goes round with one use less."""
        if self._ghosts and len(self._ghosts) > len(self._new) + len(self._main):
            self._forget_ghost(next(iter(self._ghosts)))
        elif self._new and (self._new_bytes > self.largest or not self._main):
            key, entry = next(iter(self._new.items()))
            if entry.uses:
                del self._new[key]
                self._new_bytes -= entry.size
                entry.uses = 0
                self._main[key] = entry
            else:
                self._evict(self._new, key)
                self._ghosts[key] = None
                self.used += _GHOST_BYTES
        else:
            key, entry = next(iter(self._main.items()))
            if entry.uses:
                entry.uses -= 1
                self._main.move_to_end(key)
            else:
                self._evict(self._main, key)

    def _evict(self, queue: _Queue, key: bytes) -> None:
        queue[key].owner.counts.evictions += 1
        self._remove(queue, key)

    def _remove(self, queue: _Queue, key: bytes) -> None:
        entry = queue.pop(key)
        self.used -= entry.size
        if queue is self._new:
            self._new_bytes -= entry.size
        entry.owner.counts.entries -= 1
        entry.owner.counts.bytes -= entry.size

    def _forget_ghost(self, key: bytes) -> None:
        del self._ghosts[key]
        self.used -= _GHOST_BYTES


def frozen(outputs: Arrays, *, lasting: bool) -> dict[str, Array]:
    """Outputs that nobody can write to, because several callers will hold them.

    What is to last is a copy: the rows of a run are views of the whole run's output, and would keep all of it alive.
    """
    found = {name: np.array(value, order="C") if lasting else value.view() for name, value in outputs.items()}
    for value in found.values():
        value.flags.writeable = False
    return found


def size_of(outputs: Arrays) -> int:
    """Bytes of memory that a `frozen` answer takes: arrays, their elements where these are objects, and all around."""
    total = _ENTRY_BYTES + sys.getsizeof(outputs)
    for value in outputs.values():
        total += sys.getsizeof(value)
        if value.dtype.kind == "O":
            total += sum(map(sys.getsizeof, value.flat))
    return total
