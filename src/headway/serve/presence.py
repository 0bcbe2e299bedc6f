"""Looks after HTTP requests under way: is the body coming, is the client still there.

One timer serves all of them. A timer and a watching task of its own for each request would cost a tenth of what
answering it costs, and nearly all are answered before either would matter. So requests are looked at every 25 ms, and
only one that has lived for 50 ms gets a task that waits for its client to hang up.
"""

import asyncio
import contextlib
from typing import Any, Protocol

_LOOK_S = 0.025
_WATCH_AFTER_S = 0.05


class Connection(Protocol):
    """What is used of RSGI's protocol object."""

    async def client_disconnect(self) -> None:
        """Returns when the client has gone."""


class Visit:
    """One request under way, in the task that answers it.

    Attributes:
        scope: RSGI's description of the request.
        late: whether its task was cancelled because the body did not come in time.
        body_read: to be set once it has come.
        held: bytes of its body, where they are counted.
    """

    __slots__ = ("_connection", "_since", "_task", "_watcher", "body_read", "held", "late", "scope")

    def __init__(self, task: "asyncio.Task[None]", connection: Connection, scope: Any, since: float) -> None:
        self._task, self._connection, self.scope, self._since = task, connection, scope, since
        self._watcher: asyncio.Task[None] | None = None
        self.body_read = False
        self.late = False
        self.held = 0

    def look(self, now: float, body_timeout_s: float) -> None:
        """End it if its body is late; else watch for its client once that may matter."""
        lived = now - self._since
        if not self.body_read:
            if lived > body_timeout_s and not self.late:
                self.late = True
                self._task.cancel()
        elif self._watcher is None and lived > _WATCH_AFTER_S:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def end(self) -> None:
        """It was answered."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        with contextlib.suppress(RuntimeError):  # RSGI's "transport is closed": it was answered
            await self._connection.client_disconnect()
            self._task.cancel()


class Presence:
    """Every request under way."""

    def __init__(self, body_timeout_s: float) -> None:
        self._body_timeout_s = body_timeout_s
        self._visits: set[Visit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def clients(self) -> set[str]:
        """`address:port` of every client that waits for an answer; not of one that has not sent all of its request."""
        return {visit.scope.client for visit in self._visits if visit.body_read}

    def begin(self, task: "asyncio.Task[None]", connection: Connection, scope: Any) -> Visit:
        """A request has come; to be followed by `end`."""
        loop = asyncio.get_running_loop()
        visit = Visit(task, connection, scope, loop.time())
        self._visits.add(visit)
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_S, self._look)
        return visit

    def end(self, visit: Visit) -> None:
        """It was answered, or nobody waits for an answer."""
        self._visits.discard(visit)
        visit.end()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for visit in self._visits:
            visit.look(now, self._body_timeout_s)
        self._timer = loop.call_later(_LOOK_S, self._look) if self._visits else None
