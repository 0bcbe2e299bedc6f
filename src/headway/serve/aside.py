"""Threads for what takes too long on the event loop: to read or write much JSON, many texts, compressed bodies.

Two at a time, and not asyncio's own threads: each that runs Python keeps the event loop waiting for the interpreter,
and a flood of such work must not stand in the way of what else waits for a thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_AT_ONCE = 2


class Aside:
    """The threads of one server."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_ONCE, "headway-aside")

    async def run(self, call: Callable[[*Ts], T], *given: *Ts) -> T:
        """What `call(*given)` returns; a caller that leaves before it began takes it along."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *given)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
