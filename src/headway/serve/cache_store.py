"""Answers in memory, bounded in bytes: which stay and which go.

**Eviction** is S3-FIFO (Yang, Zhang, Qiu, Yue and Vinayak, SOSP 2023) with sizes in bytes. A new answer begins in a
small queue of a tenth of the room. If it is asked for again before it comes to the queue's end, it moves on to the main
queue; if not, it goes, and only its key is remembered, among the ghosts. An answer whose key is a ghost begins in the
main queue. There, what was asked for since it last came to the end goes round again, up to three times. So inputs that
come once, a scan over a data set say, pass through a tenth of the memory and push out nothing that is in use; and a hit
moves nothing, it only counts. `docs/decisions/0027-cache.md` compares it with LRU.

Keys and answers are `bytes` in plain dictionaries and deques, for the sake of the garbage collector (see `packed.py`).
"""

import sys
from collections import deque
from itertools import count

from headway.observe.cache_counts import CacheCounts

_ENTRY_BYTES = 240  # the key, its places in a queue and two dictionaries, and what these have in reserve
_GHOST_BYTES = 180
_MOST_USES = 3
_START = 4  # bytes of a key that say whose it is
_NEW_SHARE = 10  # one part in so many is for new answers


class Recent:
    """The last so many keys that were added. One that is added again meanwhile may be forgotten earlier."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}
        self._order: deque[bytes] = deque()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._order)

    def add(self, key: bytes) -> None:
        """Remember a key."""
        self._keys[key] = None
        self._order.append(key)

    def trim(self, most: int) -> None:
        """Forget the oldest, until at most so many are left."""
        while len(self._order) > most:
            self._keys.pop(self._order.popleft(), None)


class AnswerStore:
    """The answers of every model of a server. Not thread-safe: one event loop owns it.

    Attributes:
        capacity: bytes that everything in it may take.
        largest: bytes of an answer that is kept, and of all new ones together: a larger one would push out the rest.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.largest = capacity // _NEW_SHARE
        self._answers: dict[bytes, bytes] = {}
        self._uses: dict[bytes, int] = {}  # since it last came to the end of its queue
        self._new: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        self._ghosts = Recent()
        self._new_bytes = self._bytes = 0
        self._owners: dict[bytes, CacheCounts] = {}
        self._serial = count(1)

    @property
    def used(self) -> int:
        """Bytes that everything in it takes, ghosts included."""
        return self._bytes + _GHOST_BYTES * len(self._ghosts)

    def own(self, counts: CacheCounts) -> bytes:
        """What the keys of a new owner begin with. The owner's entries, bytes and evictions are counted in `counts`."""
        start = next(self._serial).to_bytes(_START, "little")
        self._owners[start] = counts
        return start

    def get(self, key: bytes) -> bytes | None:
        """The answer, if it is here."""
        found = self._answers.get(key)
        if found is not None and (uses := self._uses[key]) < _MOST_USES:
            self._uses[key] = uses + 1
        return found

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep an answer, unless it is larger than `largest` or here already; `key` begins as `own` said."""
        size = _size(answer)
        if size > self.largest or key in self._answers:
            return
        if key in self._ghosts:
            self._main.append(key)
        else:
            self._new.append(key)
            self._new_bytes += size
        self._answers[key], self._uses[key] = answer, 0
        self._bytes += size
        counts = self._owners[key[:_START]]
        counts.entries += 1
        counts.bytes += size
        while self.used > self.capacity:
            self._make_room()

    def forget(self, start: bytes) -> None:
        """Drop every answer of one owner, which puts none any more. Ghosts go with them: whose they are is not kept."""
        for queue in (self._new, self._main):
            keys = list(queue)
            queue.clear()
            queue.extend(key for key in keys if not key.startswith(start))
            for key in keys:
                if key.startswith(start):
                    self._drop(key)
        self._new_bytes = sum(_size(self._answers[key]) for key in self._new)
        self._ghosts.trim(0)
        del self._owners[start]

    def _make_room(self) -> None:
        """One step: something goes, moves on, or goes round with one use less."""
        if len(self._ghosts) > len(self._answers):
            self._ghosts.trim(len(self._answers))
        elif self._new and (self._new_bytes > self.largest or not self._main):
            key = self._new.popleft()
            self._new_bytes -= _size(self._answers[key])
            if self._uses[key]:
                self._uses[key] = 0
                self._main.append(key)
            else:
                self._evict(key)
                self._ghosts.add(key)
        else:
            key = self._main.popleft()
            if self._uses[key]:
                self._uses[key] -= 1
                self._main.append(key)
            else:
                self._evict(key)

    def _evict(self, key: bytes) -> None:
        self._owners[key[:_START]].evictions += 1
        self._drop(key)

    def _drop(self, key: bytes) -> None:
        size = _size(self._answers.pop(key))
        del self._uses[key]
        self._bytes -= size
        counts = self._owners[key[:_START]]
        counts.entries -= 1
        counts.bytes -= size


def _size(answer: bytes) -> int:
    return _ENTRY_BYTES + sys.getsizeof(answer)
