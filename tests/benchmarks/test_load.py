"""The open-loop generator must not hide what a server does."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest
from benchmarks.serving import poisson

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno"


@contextmanager
def serving(answer: Callable[[int], bytes], connections: int = 1) -> Iterator[int]:
    """A server that answers request after request with what `answer` says of its number; to "" it closes.

    It takes so many connections, one after the other.
    """
    numbers = count()

    def converse(connection: socket.socket) -> None:
        seen = b""
        while piece := connection.recv(65536):
            seen += piece
            while seen.startswith(REQUEST):
                seen = seen[len(REQUEST) :]
                if not (told := answer(next(numbers))):
                    return
                for part in told[:1], told[1:]:  # an answer may come in pieces
                    connection.sendall(part)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(connections):
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection:
                    converse(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_connection_that_the_server_closes_costs_its_request_and_is_made_anew() -> None:
    with serving(lambda number: b"" if number % 20 == 19 else GOOD, connections=6) as port:
        found = poisson.run(port, [REQUEST], [n / 1000 for n in range(1, 101)], connections=1, grace_s=20)
    assert (found["requests"], found["errors"]) == (95, 5)


def test_every_request_is_sent_and_counted() -> None:
    with serving(lambda number: BAD if number % 4 == 0 else GOOD) as port:
        found = poisson.run(port, [REQUEST], [n / 1000 for n in range(1, 101)], connections=1, grace_s=20)
    assert found["errors"] == 25
    assert found["rate"] == pytest.approx(750)
    assert found["p99_ms"] is None  # more than one in a hundred got no good answer
    assert found["p50_ms"] > 0


def test_a_stall_counts_for_every_request_that_was_due_in_it() -> None:
    """A closed loop would see one slow answer of a hundred; here all that came due meanwhile have waited."""
    stall = threading.Event()

    def answer(number: int) -> bytes:
        if number == 10:
            stall.wait(0.5)
        return GOOD

    with serving(answer) as port:
        found = poisson.run(port, [REQUEST], [n / 1000 for n in range(1, 101)], connections=1, grace_s=20)
    assert found["errors"] == 0
    assert found["p50_ms"] > 400


def test_what_is_never_answered_is_infinitely_late() -> None:
    with serving(lambda number: GOOD if number < 5 else GOOD[:-1]) as port:
        found = poisson.run(port, [REQUEST], [n / 1000 for n in range(1, 11)], connections=1, grace_s=1)
    assert (found["requests"], found["errors"]) == (5, 5)
    assert found["p99_ms"] is None


def test_arrivals_are_those_of_a_poisson_process() -> None:
    due = np.array(poisson.arrivals(1000, 20, seed=0))
    gaps = np.diff(due)
    assert len(due) == 20_000
    assert due[-1] == pytest.approx(20, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential: the two are equal
    assert (gaps > 0).all()
