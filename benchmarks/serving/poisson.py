"""An open-loop load generator: requests arrive at random, as from many independent users, whatever the server does.

    python -m benchmarks.serving.poisson PORT PATH FOLDER COUNT RATE SECONDS SEED [Header=value ...]

A closed loop waits for a slow answer before it asks again, and so hides what waiting a stall causes. Here the times of
arrival are drawn beforehand (exponential gaps), and each latency counts from the time that was *intended*: a request
that could not be sent in time, for whatever reason, has waited (Tene, "How not to measure latency"; MLPerf LoadGen's
server scenario). What is not answered within `GRACE_S` of the last arrival counts as an error, and in the percentiles
as infinitely late.

One thread, without an event loop: `select` wakes it to the microsecond. It prints how late it was itself.
"""

import gc
import json
import select
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

CONNECTIONS = 256  # a request that finds none free waits for one, and that counts
GRACE_S = 1.0
_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class _Connection:
    """A socket, and the answer that comes in on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = -1  # of the request under way
        self.answer = b""

    def send(self, number: int, request: bytes) -> None:
        """Send request `number`. Where the server has closed the connection, `receive` will say so."""
        self.number, self.answer = number, b""
        with suppress(ConnectionError):
            self.socket.sendall(request)

    def receive(self) -> bool:
        """Read what is there. Whether the answer is whole. Raises `ConnectionError` where the server has closed it."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("closed by the server")
        self.answer += piece
        head, found, body = self.answer.partition(_END)
        if not found:
            return False
        _, _, length = head.lower().partition(_LENGTH)
        return len(body) >= int(length.partition(b"\r\n")[0])

    @property
    def right(self) -> bool:
        """Whether the answer is a success."""
        return self.answer[9:12] == b"200"


def run(
    port: int,
    requests: Sequence[bytes],
    due: Sequence[float],
    *,
    connections: int = CONNECTIONS,
    grace_s: float = GRACE_S,
) -> dict[str, Any]:
    """Send one request at each time of `due` (seconds from the start, ascending), and measure.

    Returns:
        `requests`: answered; `rate`: the same a second, from the first arrival due to the last; `p50_ms`, `p99_ms`:
        from the intended time, None where so many were not answered; `errors`: not answered, or not with 200;
        `late_ms`: 99th percentile of how late the generator itself was.
    """
    free = [_Connection(port) for _ in range(connections)]
    poll = select.epoll()
    by_number = {one.socket.fileno(): one for one in free}
    for number in by_number:
        poll.register(number, select.EPOLLIN)

    def renewed(closed: _Connection) -> _Connection:
        """One in place of one that the server has closed; a closed socket leaves the poll by itself."""
        del by_number[closed.socket.fileno()]
        closed.socket.close()
        new = _Connection(port)
        by_number[new.socket.fileno()] = new
        poll.register(new.socket.fileno(), select.EPOLLIN)
        return new

    waiting: deque[int] = deque()
    taken = np.full(len(due), np.inf)
    late = np.zeros(len(due))
    coming = 0
    start = perf_counter()
    left = len(due)
    while left and (now := perf_counter() - start) < due[-1] + grace_s:
        while coming < len(due) and due[coming] <= now:
            late[coming] = now - due[coming]
            waiting.append(coming)
            coming += 1
        while waiting and free:
            number = waiting.popleft()
            free.pop().send(number, requests[number % len(requests)])
        pause = due[coming] - (perf_counter() - start) if coming < len(due) else due[-1] + grace_s - now
        if not select.select([poll], [], [], max(pause, 0))[0]:
            continue
        for number, _ in poll.poll(0):
            connection = by_number[number]
            try:
                whole = connection.receive()
            except ConnectionError:  # its request, if it has one, gets no answer
                left -= connection.number >= 0
                free = [one for one in free if one is not connection] + [renewed(connection)]
                continue
            if whole:
                left -= 1
                if connection.right:
                    taken[connection.number] = perf_counter() - start - due[connection.number]
                connection.number = -1
                free.append(connection)
    for connection in by_number.values():
        connection.socket.close()
    p50, p99 = (float(v) * 1e3 if np.isfinite(v) else None for v in np.quantile(taken, (0.5, 0.99), method="higher"))
    answered = int(np.isfinite(taken).sum())
    return {
        "requests": answered,
        "rate": answered / due[-1],
        "p50_ms": p50,
        "p99_ms": p99,
        "errors": len(due) - answered,
        "late_ms": float(np.quantile(late, 0.99)) * 1e3,
    }


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process, in seconds."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    return [float(time) for time in np.cumsum(gaps)]


def main(port: str, path: str, folder: str, count: str, rate: str, seconds: str, seed: str, *headers: str) -> None:
    """The command."""
    head = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(header.replace("=", ": ", 1) for header in headers)]
    bodies = [Path(folder, str(number)).read_bytes() for number in range(int(count))]
    requests = ["\r\n".join([*head, f"Content-Length: {len(body)}\r\n\r\n"]).encode() + body for body in bodies]
    gc.disable()
    print(json.dumps(run(int(port), requests, arrivals(float(rate), float(seconds), int(seed)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
