"""Answers that are shared: kept in memory, and with those who ask while the run is under way.

`AnswerCache.get_or_run` stands around one stage of a request's road. The key is taken of what goes into the stage
(`cache_key.py`), the store holds what came out of it (`cache_store.py`), a run under way is joined (`coalescing.py`),
and where all this costs more than it saves, it is left alone (`cache_worth.py`). A model may have one around the whole
road, by the client's own inputs, and one around the run, by the processed tensors; both share the server's store.
"""

import asyncio
from collections.abc import Mapping
from time import perf_counter

from headway.core.tensors import Array
from headway.observe.cache_counts import CacheCounts
from headway.observe.logs import logger
from headway.serve.cache_key import Keys
from headway.serve.cache_store import AnswerStore
from headway.serve.cache_worth import Worth
from headway.serve.coalescing import Compute, Flights
from headway.serve.packed import pack, read_only, unpack

Arrays = Mapping[str, Array]

_HASHED_HERE = 256 << 10  # bytes, which take 0.15 ms; more are hashed in a thread
_THREAD_S = 110e-6  # CPU time of the way to a thread and back
_MOST_SAMPLES, _FEWEST_SAMPLES = 16_384, 64


class AnswerCache:
    """What one version of a model shares at one boundary. Made and used in one event loop.

    Args:
        store: of the server.
        keys: of this model and boundary.
        worth: whether it pays.
        counts: what is counted.
        name: for the log.
    """

    def __init__(self, store: AnswerStore, keys: Keys, worth: Worth, counts: CacheCounts, name: str) -> None:
        self.counts = counts
        counts.on = worth.on
        self._store, self._start = store, store.own(counts)
        self._keys = keys
        self._worth = worth
        self._name = name
        self._flights: Flights[Arrays] = Flights(self._keep)
        self._answer_bytes = 0
        self._closed = False

    async def get_or_run(
        self, inputs: Arrays, tenant: str, compute: Compute[Arrays], timeout_s: float, priority: int
    ) -> Arrays:
        """The outputs for these inputs: from memory, from a run under way, or from `compute`.

        Args:
            inputs: in the model's order.
            tenant: who asks; nothing is shared between tenants.
            compute: runs the stage for these inputs.
            timeout_s: that this caller waits.
            priority: of this caller.

        Returns:
            Arrays that must not be written to: others may hold them, and then they are read-only.

        Raises:
            DeadlineError: there was no answer within `timeout_s` seconds.
            Exception: what `compute` raised.
        """
        worth, counts = self._worth, self.counts
        if worth.passes():
            counts.passed += 1
            return await compute(timeout_s, priority)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if sum(map(_bytes, inputs.values())) <= _HASHED_HERE:
            key, seconds = self._key(inputs, tenant)
        else:
            key, seconds = await loop.run_in_executor(None, self._key, inputs, tenant)
            seconds += _THREAD_S
        if not worth.on:
            counts.passed += 1
            worth.sampled(key, seconds)
            self._tell()
            return await compute(deadline - loop.time(), priority)
        began = perf_counter()
        packed = self._store.get(key)
        flying = key in self._flights
        hit = packed is not None or flying
        seconds += perf_counter() - began
        worth.looked_up(seconds, hit=hit)
        if hit:
            counts.hit_seconds += seconds
        else:
            counts.miss_seconds += seconds
        if packed is not None:
            counts.hits += 1
            return unpack(packed)
        if flying:
            counts.coalesced += 1
        else:
            counts.misses += 1
            self._tell()
        return await self._flights.join(key, compute, deadline, priority)

    def close(self) -> None:
        """Forget every answer, and keep none of the runs under way."""
        if not self._closed:
            self._closed = True
            self._store.forget(self._start)

    def _key(self, inputs: Arrays, tenant: str) -> tuple[bytes, float]:
        """The key, and how many seconds it took."""
        began = perf_counter()
        key = self._start + self._keys.of(inputs, tenant)
        return key, perf_counter() - began

    def _keep(self, key: bytes, outputs: Arrays) -> Arrays:
        began = perf_counter()
        self._answer_bytes = sum(map(_bytes, outputs.values()))
        if self._closed or self._answer_bytes > self._store.largest:
            return read_only(outputs)
        packed = pack(outputs)
        self._store.put(key, packed)
        shared = unpack(packed)
        seconds = perf_counter() - began
        self._worth.kept(seconds)
        self.counts.miss_seconds += seconds
        return shared

    def _tell(self) -> None:
        """Where it switched itself on or off, say so."""
        if self.counts.on == self._worth.on:
            return
        self.counts.on = self._worth.on
        if not self._worth.on:
            fit = self._store.capacity // max(self._answer_bytes, 1)
            self._worth.room = max(min(fit, _MOST_SAMPLES), _FEWEST_SAMPLES)
        what = "cache switched on" if self._worth.on else "cache switched off: it does not pay"
        logger.info(what, extra={"fields": {"model": self._name}})


def _bytes(value: Array) -> int:
    """About as many as its contents have."""
    return sum(map(len, value.ravel().tolist())) if value.dtype.kind == "O" else value.nbytes
