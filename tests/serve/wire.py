"""What tests of the wires share: a running server, requests as bytes, sessions behind gates."""

import http.client
import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from headway.serve.config import ServeConfig
from headway.serve.grpc_service import SERVICE
from headway.serve.loading import load_bundle
from headway.serve.messages import message, methods
from headway.serve.server import Server

INFER = "/v2/models/linear/infer"
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
TENSOR: dict[str, Any] = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
FITTING = json.dumps({"inputs": [TENSOR]}).encode()
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[Server]:
    with Server(models, ServeConfig(**{"http_port": 0, "grpc_port": None, **settings})).running() as server:
        yield server


def ask(
    server: Server, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, Any, bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def post(server: Server, path: str, document: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and document of the answer to a JSON document."""
    status, _, body = ask(server, "POST", path, json.dumps(document).encode(), headers)
    return status, json.loads(body)


def connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def raw(server: Server, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send bytes as they are; all that comes back until the server closes, or has answered and goes quiet."""
    answer = b""
    with connected(server) as connection, suppress(ConnectionError, TimeoutError):
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
            connection.settimeout(0.3)
    return answer


def right(server: Server) -> bool:
    """Whether a plain request gets its right answer."""
    status, answer = post(server, INFER, {"inputs": [TENSOR]})
    return status == 200 and bool(np.allclose(answer["outputs"][0]["data"], np.array([1, 2, 3, 4]) @ WEIGHTS))


def refused(answer: tuple[int, Any, bytes], status: int, says: str = "") -> None:
    """It is the error document, and nothing else."""
    assert (answer[0], answer[1]["content-type"]) == (status, "application/json"), answer
    document = json.loads(answer[2])
    assert list(document) == ["error"]
    assert says in document["error"], answer


@contextmanager
def calling(server: Server) -> Iterator[Callable[..., Any]]:
    """`call(name, request)` over a bare gRPC channel; `request` is a message or bytes."""
    with grpc.insecure_channel(server.grpc_address) as channel:

        def call(name: str, request: Any, timeout: float = 30) -> Any:
            kind = next(one for one in methods(SERVICE) if one.name == name)
            content = request if isinstance(request, bytes) else request.SerializeToString()
            invoke = channel.unary_unary(f"/{SERVICE}/{name}", response_deserializer=kind.response.FromString)
            return invoke(content, timeout=timeout)

        yield call


def infer_message(value: np.ndarray | None = None, *, model: str = "linear", number: str = "") -> Any:
    """A `ModelInferRequest` for `linear`."""
    value = np.ones((1, 4), np.float32) if value is None else value
    request = message("inference.ModelInferRequest")(model_name=model, id=number)
    request.inputs.add(name="input", datatype="FP32", shape=value.shape)
    request.raw_input_contents.append(value.tobytes())
    return request


class Gated:
    """A real session behind a gate, which remembers the `input` of every run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs, self.outputs, self.thread_safe = session.inputs, session.outputs, session.thread_safe
        self.gate, self.entered = threading.Event(), threading.Event()
        self.runs: list[np.ndarray] = []

    @property
    def ran(self) -> list[float]:
        """The first value of every row."""
        return [float(row[0]) for run in self.runs for row in run]

    def run(self, inputs: Any) -> Any:
        self.runs.append(inputs["input"])
        self.entered.set()
        assert self.gate.wait(20)
        return self._session.run(inputs)

    def close(self) -> None:
        self._session.close()


def behind_gates(monkeypatch: pytest.MonkeyPatch) -> list[Gated]:
    """Sessions that are loaded from now on stand behind gates; they are added to what is returned."""
    made: list[Gated] = []

    def load(source: Any, **settings: Any) -> Any:
        loaded = load_bundle(source, **settings)
        made.append(Gated(loaded.session))
        return replace(loaded, session=made[-1])

    monkeypatch.setattr("headway.serve.server.load_bundle", load)
    monkeypatch.setattr("headway.serve.server.warm_up", lambda *_: None)
    return made


def metric(server: Server, name: str) -> float:
    """The value of a metric, labels included in the name; 0 where there is none."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait for what has no event of its own."""
    for _ in range(int(seconds * 100)):
        if holds():
            return
        threading.Event().wait(0.01)
    pytest.fail(f"it never became so: {what}")


def resident(pid: int | None = None) -> int:
    """Bytes of memory that a process holds."""
    return int(psutil.Process(pid).memory_info().rss)
