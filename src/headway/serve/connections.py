"""Keeps room for new connections: where there are nearly as many as may be, the longest idle ones are closed.

granian accepts `max_connections` and leaves the next in the kernel's queue until one closes, which an idle one does
after the header timeout; grpcio accepts whatever comes. So a thousand clients that send nothing would keep all others
waiting. Neither tells of its connections or closes one when asked. But they are sockets of this process: Linux lists
them, and says when bytes last came and went. To shut one down is what its client would have done by leaving.
Closing idle connections under pressure is also what nginx does (`ngx_drain_connections`).

A client that asks for large answers and reads none makes the server keep them: its connection is closed in time,
however few there are.
"""

import asyncio
import contextlib
import fcntl
import itertools
import os
import resource
import socket
import struct
import termios
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from headway.observe.logs import logger

_LOOK_S = 0.5
_LOOKS = 10  # in one of so many, answers that nobody reads are looked for as well
_OPEN_FILES = Path("/proc/self/fd")
# Milliseconds since bytes were last sent, and received: u32s in Linux' struct tcp_info.
_LAST = struct.Struct("=44xI4xI")
_COUNT = struct.Struct("=i")


class _Connection(NamedTuple):
    idle_s: float
    client: str
    descriptor: int
    unsent: int  # bytes that the client has not taken


class Doorkeeper:
    """Watches the connections to one port. Linux only; elsewhere it does nothing.

    Args:
        port: that the connections came to.
        most: connections that there may be.
        grace_s: idle for less, none is closed.
        stall_s: a client that has taken nothing of its answer for longer is closed.
        busy: `address:port` of clients that wait for an answer; theirs are not closed.
    """

    def __init__(
        self, port: int, most: int, *, grace_s: float, stall_s: float, busy: Callable[[], Set[str]] = frozenset
    ) -> None:
        self._port, self._grace_s, self._stall_s, self._busy = port, grace_s, stall_s, busy
        self._room = most - max(most // 16, 1)  # past this,
        self._calm = most - max(most // 4, 1)  # so many are left: as many newcomers may stand before the next caller

    async def watch(self) -> None:
        """Keep room until cancelled."""
        for look in itertools.count() if _OPEN_FILES.is_dir() else ():
            await asyncio.sleep(_LOOK_S)
            many = sum(1 for _ in _OPEN_FILES.iterdir()) > self._room  # soon told; there are other open files as well
            if many or not look % _LOOKS:
                busy = self._busy()  # a thousand connections take some 10 ms
                closed = await asyncio.to_thread(self._make_room, busy) if many else self._make_room(busy)
                if closed:
                    logger.warning("idle connections closed", extra={"fields": {"port": self._port, "closed": closed}})

    def _make_room(self, busy: Set[str]) -> int:
        """Close as many idle connections as there are too many, and those of unread answers; how many they were."""
        found = sorted(self._connections(), reverse=True)
        idle = [one for one in found if one.idle_s >= self._grace_s and one.client not in busy]
        stalled = [one for one in found if one.unsent and one.idle_s >= self._stall_s]
        closed = 0
        for one in {*stalled, *idle[: len(found) - self._calm if len(found) > self._room else 0]}:
            with contextlib.suppress(OSError), _held(one.descriptor) as held:
                if _client(held) == one.client:  # and not another file since
                    held.shutdown(socket.SHUT_RDWR)
                    closed += 1
        return closed

    def _connections(self) -> Iterator[_Connection]:
        for path in _OPEN_FILES.iterdir():
            with contextlib.suppress(OSError), _held(int(path.name)) as held:
                if held.family in (socket.AF_INET, socket.AF_INET6) and held.getsockname()[1] == self._port:
                    times = held.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST.size)
                    unsent = fcntl.ioctl(held, termios.TIOCOUTQ, _COUNT.pack(0))
                    idle_s = min(_LAST.unpack(times)) / 1000
                    yield _Connection(idle_s, _client(held), int(path.name), *_COUNT.unpack(unsent))


def _held(descriptor: int) -> socket.socket:
    """A socket of its own, which stays this one even if granian closes it. Raises OSError where it is no socket."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _client(held: socket.socket) -> str:
    address, port = held.getpeername()[:2]
    return f"{address}:{port}"


def allow_open_files() -> None:
    """Let this process have as many open files as the system allows it; a shell's usual 1,024 are fewer than that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
