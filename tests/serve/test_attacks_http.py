"""Attacks on HTTP itself: bodies that lie, clients that wait, requests within requests, damaged ones.

What granian (hyper) refuses before it calls us has an empty body: docs/decisions/0026-limits-of-the-wire.md.
"""

import json
import resource
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serve.wire import (
    CHUNKED,
    FITTING,
    HEAD,
    INFER,
    TENSOR,
    ask,
    behind_gates,
    connected,
    metric,
    raw,
    refused,
    resident,
    right,
    serving,
    wait_until,
)  # fmt: skip

from headway.bundles.bundle import Bundle
from headway.serve.server import Server

Seal = Callable[..., Bundle]


@pytest.fixture
def server(sealed: Seal) -> Iterator[Server]:
    with serving(sealed("linear"), sealed("texts"), choose_seconds=0, threads=1) as server:
        yield server
        assert right(server), "it answers no longer"


# Bodies


def test_a_header_length_that_lies(server: Server) -> None:
    for length in ("-1", "+5", "", "1e3", "0x10", str(len(FITTING) + 1), "9" * 19, "9" * 400, "1, 2"):
        told = {"Inference-Header-Content-Length": length.encode()}
        refused(ask(server, "POST", INFER, FITTING, told), 400, "Inference-Header-Content-Length")  # type: ignore[arg-type]


def test_a_body_that_breaks_off(server: Server) -> None:
    """A half-closed connection can still be answered; granian would say 500 and nothing else."""
    for sent in (
        HEAD + b"Content-Length: 90\r\n\r\n" + FITTING[:10],
        HEAD + b"Content-Length: 3000000\r\n\r\n" + bytes(2_000_000),
        CHUNKED + b"%x\r\n%s" % (len(FITTING), FITTING[:10]),
        CHUNKED + b"%x\r\n%s\r\n" % (len(FITTING), FITTING),
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"f" * 17 + b"\r\n",
    ):
        answer = raw(server, sent, half_close=True)
        assert b" 400 Bad Request" in answer[:30], answer
        assert b'{"error": "the body broke off' in answer


def test_large_bodies_at_a_time_are_bounded(sealed: Seal) -> None:
    """A caller that holds much keeps out large bodies alone, and these are welcome again once it has gone."""
    body = bytes(2_000_000)
    with serving(sealed("linear"), max_held_bytes=3_000_000, choose_seconds=0) as server, connected(server) as holder:
        holder.sendall(HEAD + b"Content-Length: 2500000\r\n\r\n" + bytes(2_400_000))
        wait_until(lambda: ask(server, "POST", INFER, body)[0] == 503, "it is held")
        answer = ask(server, "POST", INFER, body)
        refused(answer, 503, "no more are taken")
        assert answer[1]["retry-after"] == "1"
        assert right(server)
        holder.close()
        wait_until(lambda: ask(server, "POST", INFER, body)[0] == 400, "it was let go")


def test_a_flood_of_tiny_chunks(server: Server) -> None:
    many = b"1\r\n \r\n" * 20_000
    tail = b"%x\r\n%s\r\n0\r\n\r\n" % (len(FITTING), FITTING)
    assert b"200 OK" in raw(server, CHUNKED, many, tail)


def test_bombs_are_refused_and_leave_no_memory_behind(sealed: Seal) -> None:
    bomb, fine = zlib.compress(bytes(30_000_000), 9), zlib.compress(FITTING)
    told = {"Content-Encoding": "deflate"}
    with serving(sealed("linear"), max_body_bytes=10_000_000, choose_seconds=0) as server:
        refused(ask(server, "POST", INFER, bomb, told), 413, "once decompressed")
        before = resident()
        statuses: list[int] = []
        callers = [threading.Thread(target=lambda: statuses.append(ask(server, "POST", INFER, bomb, told)[0]))
                   for _ in range(16)]  # fmt: skip
        for caller in callers:
            caller.start()
        assert ask(server, "POST", INFER, fine, told)[0] == 200
        for caller in callers:
            caller.join()
        assert statuses == [413] * 16
        assert resident() - before < 16 * 10e6 / 2


def test_multipart_is_no_request_and_writes_no_file(server: Server, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    edge = "x" * 60_000
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="f"; filename="../../evil"\r\n\r\nx\r\n--{edge}--'.encode()
    )
    told = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    for path in (INFER, "/v2/repository/models/linear/load", "/v2/logging"):
        refused(ask(server, "POST", path, body, told), 400, "not valid JSON")
    assert set(tmp_path.rglob("*")) == before


# Waiting


@pytest.mark.parametrize("begun", [b"", b"GET /v2 HTTP/1.1\r\nHo", HEAD + b"Content-Length: 99\r\n\r\n{"], ids=str)
def test_clients_that_send_no_more_keep_nobody_out(sealed: Seal, begun: bytes) -> None:
    """More than there may be connections; the longest idle ones are closed long before their timeouts."""
    with serving(sealed("linear"), max_connections=32, choose_seconds=0) as server:
        silent = [connected(server) for _ in range(60)]
        for one in silent:
            one.sendall(begun)
        assert right(server)
        assert sum(not left(one) for one in silent) > 0
        for one in silent:
            one.close()


PROCESS = """
import sys
from headway.serve.config import ServeConfig
from headway.serve.server import Server
Server([sys.argv[1]], ServeConfig(http_port=0, grpc_port=None, choose_seconds=0, drain_s=0),
       on_ready=lambda server: print(server.url, flush=True)).run()
"""


def test_1030_clients_that_send_no_more_keep_nobody_out(sealed: Seal) -> None:
    """The default bound, in a process of its own, for one may have but so many open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    command = [sys.executable, "-c", PROCESS, str(sealed("linear").path)]
    with ExitStack() as stack, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        assert running.stdout is not None
        server: Any = SimpleNamespace(url=running.stdout.readline().strip())
        for number in range(1030):
            one = stack.enter_context(connected(server))
            one.sendall(HEAD + b"Content-Length: 99\r\n\r\n{" if number % 2 else b"GET /v2")
        assert right(server)  # within the 30 s of its socket, and the 10 s that a header may take
        running.terminate()
        assert running.wait(30) == 0


def left(connection: socket.socket) -> bool:
    """Whether it is still open."""
    connection.settimeout(0.001)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def test_an_answer_that_nobody_reads_is_given_up(sealed: Seal) -> None:
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x" * 15_000_000]}
    body = json.dumps({"inputs": [text]}).encode()
    head = HEAD.replace(b"linear", b"texts") + b"Content-Length: %d\r\n\r\n" % len(body)
    with serving(sealed("texts"), request_timeout_s=1, choose_seconds=0) as server, connected(server) as deaf:
        deaf.sendall(head + body)
        wait_until(lambda: metric(server, 'headway_http_responses_total{status="200"}') > 0, "it was answered")
        wait_until(lambda: not unread(server), "the connection was closed")


def unread(server: Server) -> bool:
    """Whether a connection of the server's holds bytes that its client does not take."""
    port = int(server.url.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "01" and int(row[4].split(":")[0], 16) > 0 for row in rows)


def test_a_timeout_that_passes_is_504(sealed: Seal, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = behind_gates(monkeypatch)
    hurried = {"inputs": [TENSOR], "parameters": {"timeout": 1000}}
    with serving(sealed("linear")) as server:
        refused(ask(server, "POST", INFER, json.dumps(hurried).encode()), 504, "deadline passed")
        gates[0].gate.set()
        for timeout in (-1, "1", 1.5, True, 1 << 63):
            wrong = {"inputs": [TENSOR], "parameters": {"timeout": timeout}}
            refused(ask(server, "POST", INFER, json.dumps(wrong).encode()), 400, "timeout")


@pytest.mark.parametrize("kind", ["JSON", "BYTES", "classes"])
def test_others_are_answered_while_a_long_request_is_read(server: Server, kind: str) -> None:
    count, told = 1 << 20, {}
    text = {"name": "text", "shape": [count], "datatype": "BYTES"}
    if kind == "JSON":
        body = json.dumps({"inputs": [text | {"datatype": "FP32", "data": [0.5] * count}]}).encode()
    else:
        # The datatype is written so that nobody finds it who does not read JSON.
        head = json.dumps({"inputs": [text | {"parameters": {"binary_data_size": 5 * count}}]})
        head = head.replace("BYTES", r"BYTE\u0053") if kind == "classes" else head
        body, told = (
            head.encode() + struct.pack("<IB", 1, 7) * count,
            {"Inference-Header-Content-Length": str(len(head))},
        )
    answers: list[int] = []
    long = threading.Thread(
        target=lambda: answers.append(ask(server, "POST", INFER.replace("linear", "texts"), body, told)[0])
    )
    long.start()
    meanwhile = 0
    while not answers:
        meanwhile += right(server)
    long.join()
    assert answers[0] in (400, 413)
    assert meanwhile > 3


# Requests within requests, and odd ones

CLOSE = b"Connection: close\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(FITTING)
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(FITTING), FITTING)
SECOND = b"GET /v2/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_no_second_request_is_smuggled_in(server: Server) -> None:
    """Where two readers may see two ends of a request, it has one answer, and the connection is closed."""
    encoding = b"Transfer-Encoding: chunked\r\n"
    for head, body in (
        (b"Content-Length: 4\r\n" + encoding, CHUNK),
        (encoding + b"Content-Length: 4\r\n", CHUNK),
        (b"Transfer-Encoding: chunked, identity\r\n" + LENGTH, FITTING),
        (b"Transfer-Encoding: xchunked\r\n" + LENGTH, FITTING),
        (b"Transfer-Encoding : chunked\r\n" + LENGTH, CHUNK),
        (b"X: a\r\n Transfer-Encoding: chunked\r\n" + LENGTH, FITTING),
        (b"X: a\rTransfer-Encoding: chunked\r\n" + LENGTH, FITTING),
        (b"X: \0\r\n" + LENGTH, FITTING),
        (LENGTH + b"Content-Length: 3\r\n", FITTING),
        (b"Content-Length: %d, %d\r\n" % (len(FITTING), len(FITTING)), FITTING),
        (b"Content-Length: 99999999999\r\n", b""),
    ):
        answer = raw(server, HEAD + head + b"\r\n" + body + SECOND)
        assert answer.count(b"HTTP/1.1 ") == 1, (head, answer)
        assert b'"models"' not in answer
    whole = HEAD + LENGTH + b"\r\n" + FITTING
    assert raw(server, whole + SECOND + whole).count(b" 200 OK\r\n") == 3, "those that are three are answered in turn"
    unread = b"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(SECOND), SECOND)
    assert raw(server, unread + whole).count(b"HTTP/1.1 ") == 2, "a body that is not read is no request"


def test_odd_requests_are_answered_in_json(server: Server) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "A" * 5000):
        for path in (INFER, "/v2/health/ready", "/nothing"):
            refused(ask(server, method, path), 404 if path == "/nothing" else 405)
    for path in ("/%", "/%zz", "/%ff%fe", "/%0d%0aSet-Cookie:%20x", "/%E2%80%AE", "//v2", "/v2//models", "/v2/./models",
                 "/v2/models/linear;x/ready", "/v2/models/linear%5cready", "/" + "%41" * 20_000, "*"):  # fmt: skip
        refused(ask(server, "GET", path), 404)
    head = ask(server, "HEAD", "/v2/health/ready")
    assert (head[0], head[1]["content-length"], head[2]) == (200, "29", b"")
    assert ask(server, "HEAD", INFER)[0] == 405
    for name in (
        b"Content-Encoding",
        b"Accept-Encoding",
        b"traceparent",
        b"tracestate",
        b"Accept",
        b"Expect",
        b"Cookie",
    ):
        for value in (b"\xff\xfe", b"", b"," * 5000, b"gzip;q=" + b"9" * 5000, b"00-" + b"f" * 60):
            answer = raw(server, HEAD + CLOSE + name + b": " + value + b"\r\n" + LENGTH + b"\r\n" + FITTING)
            assert answer[:15] in (b"HTTP/1.1 200 OK", b"HTTP/1.1 501 No"), (name, value, answer)


WHOLE = HEAD + CLOSE + LENGTH + b"Accept-Encoding: gzip\r\n\r\n" + FITTING
PIECES = [b"", b"\0", b"\r\n", b"\xff", b"9" * 30, b"-", b"[" * 70, b'"', b"Content-Length: 1\r\n", b"%00", b"/../"]


def test_a_damaged_request_is_answered_or_closed(server: Server) -> None:
    places, pieces = st.integers(0, len(WHOLE)), st.sampled_from(PIECES) | st.binary(max_size=8)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(places, st.integers(0, 40), pieces), min_size=1, max_size=3))
    def damaged(cuts: list[tuple[int, int, bytes]]) -> None:
        sent = WHOLE
        for at, gone, piece in cuts:
            sent = sent[:at] + piece + sent[at + gone :]
        answer = raw(server, sent, half_close=True)
        assert b"HTTP/1.1 500" not in answer
        for part in answer.split(b"\r\n\r\n")[:1]:
            status = part[9:12]
            assert not part or 200 <= int(status) < 600
            if b"application/json" in part and status != b"200":
                assert list(json.loads(answer.partition(b"\r\n\r\n")[2].split(b"HTTP/1.1")[0])) == ["error"]

    damaged()
