"""Identical requests in flight run once.

The first caller for a key begins a flight; those who come while it is under way join it. The run belongs to the flight
and not to the caller who began it: each caller waits on a future of its own, with its own deadline, and may leave at
any time without anybody else noticing. When the last one leaves, the run is cancelled, and so dropped if it has not
begun. A failure is handed to each as an exception of its own and then forgotten: the next request tries again.

A caller of higher priority than the run's must not wait behind it. It begins a second run, which overtakes the first in
the queue; whichever succeeds first answers everybody, and the other is cancelled.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from headway.serve.errors import DeadlineError, InferenceError, UnavailableError

Result = TypeVar("Result")
# Begins the work. Given: how many seconds it may take, and its priority (1 is the highest, 0 the lowest).
Compute = Callable[[float, int], Awaitable[Result]]

# Seconds. Deadlines are the callers' own, and who joins later may have more time than who was first: a run ends when
# nobody waits for it any more.
_LONGEST_S = 86_400.0


class _Flight(Generic[Result]):
    """Runs for one key, and those who wait for the first of them that succeeds."""

    __slots__ = ("callers", "runs", "urgency")

    def __init__(self) -> None:
        self.callers: set[asyncio.Future[Result | Exception]] = set()
        self.runs: set[asyncio.Task[None]] = set()
        self.urgency = -1.0


class Flights(Generic[Result]):
    """The flights under way, by key. Made and used in one event loop.

    Args:
        landed: is given the key and result of a flight, and returns what its callers are given.
    """

    def __init__(self, landed: Callable[[bytes, Result], Result]) -> None:
        self._loop = asyncio.get_running_loop()
        self._landed = landed
        self._under_way: dict[bytes, _Flight[Result]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    async def join(self, key: bytes, compute: Compute[Result], deadline: float, priority: int) -> Result:
        """The result of the flight of this key; it begins where there is none.

        Args:
            key: what must agree for two calls to share a run.
            compute: the work.
            deadline: of this caller, on the loop's clock.
            priority: of this caller.

        Raises:
            DeadlineError: there was no result until then.
            Exception: a copy of what `compute` raised.
        """
        if deadline <= self._loop.time():
            raise _late()
        flight = self._under_way.get(key)
        if flight is None:
            flight = self._under_way[key] = _Flight()
        if _urgency(priority) > flight.urgency:
            flight.urgency = _urgency(priority)
            flight.runs.add(self._loop.create_task(self._run(key, flight, compute, priority)))
        waiting: asyncio.Future[Result | Exception] = self._loop.create_future()
        flight.callers.add(waiting)
        alarm = self._loop.call_at(deadline, _expire, waiting)
        try:
            outcome = await waiting
        finally:
            alarm.cancel()
            flight.callers.discard(waiting)
            if not flight.callers:
                self._end(key, flight)
        if isinstance(outcome, Exception):
            raise _own(outcome)
        return outcome

    async def _run(self, key: bytes, flight: _Flight[Result], compute: Compute[Result], priority: int) -> None:
        outcome: Result | Exception
        try:
            outcome = self._landed(key, await compute(_LONGEST_S, priority))
        except asyncio.CancelledError:  # nobody waits; or the loop is being closed
            outcome = UnavailableError("the run was cancelled")
        except Exception as error:  # noqa: BLE001  (whatever it is, it is the callers')
            outcome = error
        flight.runs = {run for run in flight.runs if run is not asyncio.current_task()}
        if flight.runs and isinstance(outcome, Exception):
            return  # the other may succeed: the queue had room for it before it was full
        self._end(key, flight)
        for waiting in flight.callers:
            if not waiting.done():
                waiting.set_result(outcome)

    def _end(self, key: bytes, flight: _Flight[Result]) -> None:
        """Nobody joins any more, and no run goes on."""
        if self._under_way.get(key) is flight:
            del self._under_way[key]
        for run in flight.runs:
            run.cancel()


def _urgency(priority: int) -> float:
    """Greater is sooner: 1 before 2, and 0, the default, after all that are given."""
    return 1 / priority if priority else 0.0


def _expire(waiting: "asyncio.Future[Result | Exception]") -> None:
    if not waiting.done():
        waiting.set_result(_late())


def _late() -> DeadlineError:
    return DeadlineError("the deadline passed before there was an answer", remedy="Allow more time.")


def _own(error: Exception) -> Exception:
    """The same failure as an object of its own: one object raised in several tasks would mix their tracebacks."""
    try:
        own = copy.copy(error)
    except Exception:  # noqa: BLE001  (any class may refuse)
        own = InferenceError(f"the model failed: {type(error).__name__}")
    own.__cause__ = error.__cause__ or error
    return own
