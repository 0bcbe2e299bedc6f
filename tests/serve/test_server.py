"""The server over its real socket, with real clients."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.wire import behind_gates
from tritonclient.utils import InferenceServerException

from headway.bundles.bundle import Bundle
from headway.core.errors import BundleError, ConfigError, HeadwayError, TamperedError
from headway.serve.config import ServeConfig
from headway.serve.server import Server

Seal = Callable[..., Bundle]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[Server]:
    with Server(models, ServeConfig(**{"http_port": 0, "grpc_port": None, **settings})).running() as server:
        yield server


@contextmanager
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    one = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
    try:
        yield one
    finally:
        one.close()


def ask(
    server: Server, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def raw(server: Server, *pieces: bytes) -> bytes:
    """Send bytes as they are; what comes back until the server closes or goes quiet."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.settimeout(3)
        return connection.recv(65536)


def infer_input(value: np.ndarray, *, name: str = "input", kind: str = "FP32", binary: bool = True) -> Any:
    one = triton.InferInput(name, list(value.shape), kind)
    one.set_data_from_numpy(value, binary_data=binary)
    return one


def rows(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


# What clients do


def test_a_real_client_uses_it_unmodified(sealed: Seal) -> None:
    with serving(sealed("linear", version="2"), sealed("linear", version="10")) as server, client(server) as one:
        assert one.is_server_live()
        assert one.is_server_ready()
        assert one.is_model_ready("linear")
        assert one.is_model_ready("linear", "2")
        assert not one.is_model_ready("linear", "3")
        assert "binary_tensor_data" in one.get_server_metadata()["extensions"]
        assert one.get_model_metadata("linear") == {
            "name": "linear",
            "versions": ["2", "10"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
        }
        value = rows(1, 5)
        for sent in (True, False):
            for asked in (None, [triton.InferRequestedOutput("logits", binary_data=False)]):
                result = one.infer("linear", [infer_input(value, binary=sent)], outputs=asked, request_id="7")
                np.testing.assert_allclose(result.as_numpy("logits"), value @ WEIGHTS, rtol=1e-5)
                assert result.get_response()["id"] == "7"
                assert result.get_response()["model_version"] == "10"
        old = one.infer("linear", [infer_input(value)], model_version="2")
        assert old.get_response()["model_version"] == "2"


def test_every_datatype_goes_there_and_back(sealed: Seal) -> None:
    kinds = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8"}
    kinds |= {f"{sign}INT{bits}": f"{sign.lower() or 'i'}{bits // 8}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
    values = {kind: np.array([[1, 0], [0, 1], [1, 1]]).astype(code) for kind, code in kinds.items()}
    with serving(sealed("everything"), sealed("texts")) as server, client(server) as one:
        sent = [infer_input(value, name=f"in_{kind}", kind=kind) for kind, value in values.items()]
        result = one.infer("everything", sent)
        for kind, value in values.items():
            back = result.as_numpy(f"out_{kind}")
            assert back.dtype == value.dtype
            np.testing.assert_array_equal(back, value)
        text = np.array(["größe".encode(), b""], dtype=object)
        for binary in (True, False):
            sent = [infer_input(text, name="text", kind="BYTES", binary=binary)]
            assert one.infer("texts", sent).as_numpy("same").tolist() == text.tolist()


def test_mixed_lengths_in_one_queue_are_answered_right(sealed: Seal) -> None:
    with serving(sealed("lengths")) as server, client(server) as one:
        values = [np.full((1 + n % 3, 1 + n % 5), n, np.float32) for n in range(60)]
        waiting = [one.async_infer("lengths", [infer_input(value)]) for value in values]
        for value, pending in zip(values, waiting, strict=True):
            np.testing.assert_allclose(pending.get_result().as_numpy("total"), value.sum(axis=1, keepdims=True))


def test_the_routes_without_a_model(sealed: Seal) -> None:
    with serving(sealed("linear")) as server:
        for path in ("/v2", "/v2/"):
            status, headers, body = ask(server, "GET", path)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(body)["name"] == "headway"
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert json.loads(ask(server, "GET", path)[2]) == {"live": True, "ready": True}
        assert json.loads(ask(server, "GET", "/v2/models")[2]) == {"models": ["linear"]}
        assert ask(server, "GET", "/v2/models/linear/")[0] == 200
        status, headers, body = ask(server, "GET", "/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        assert b'headway_model_ready{model="linear",version="1"} 1.0' in body


def test_a_raw_request_is_one_inputs_bytes(sealed: Seal) -> None:
    with serving(sealed("linear")) as server:
        value = rows(3)
        headers = {"Inference-Header-Content-Length": "0"}
        status, back, body = ask(server, "POST", "/v2/models/linear/infer", value.tobytes(), headers)
        assert status == 200
        assert back["content-type"] == "application/octet-stream"
        length = int(back["inference-header-content-length"])
        np.testing.assert_allclose(np.frombuffer(body[length:], "f4"), (value @ WEIGHTS)[0], rtol=1e-5)


# Wrong requests

FITTING = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/v2/models/linear/infer", b"{", 400, "not valid JSON"),
        ("POST", "/v2/models/linear/infer", {"inputs": [FITTING | {"name": "x"}]}, 400, "no input is called 'x'"),
        ("POST", "/v2/models/linear/infer", {"inputs": [FITTING | {"datatype": "FP64"}]}, 400, "must be FP32"),
        ("POST", "/v2/models/linear/infer", {"inputs": [FITTING | {"shape": [4, 1]}]}, 400, "does not fit"),
        (
            "POST",
            "/v2/models/linear/infer",
            {"inputs": [FITTING], "outputs": [{"name": "z"}]},
            400,
            "no output is called",
        ),
        (
            "POST",
            "/v2/models/linear/infer",
            {
                "inputs": [FITTING],
                "outputs": [
                    {"name": "logits", "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}
                ],
            },
            501,
            "shared memory is off",
        ),
        ("POST", "/v2/models/none/infer", {"inputs": [FITTING]}, 404, "no model is called 'none'"),
        ("POST", "/v2/models/linear/versions/9/infer", {"inputs": [FITTING]}, 404, "no version '9'"),
        ("POST", "/v2/models/linear/versions/1/versions/1/infer", {}, 404, "no such path"),
        ("GET", "/v2/models/linear/infer", None, 405, "takes POST"),
        ("POST", "/v2/models/linear", b"", 405, "takes GET"),
        ("POST", "/v2/health/live", b"", 405, "takes GET"),
        ("GET", "/v2/models/linear/nothing", None, 404, "no such path"),
        ("GET", "/v2/models//ready", None, 404, "no such path"),
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", None, 404, ""),
        ("GET", "/v2/models/../../etc/passwd", None, 404, ""),
        ("GET", "/v2/models/%20", None, 404, "no model"),
        ("GET", "/v2/models/linear%00", None, 404, "no model"),
        ("GET", "/", None, 404, "no such path"),
        ("GET", "/v1/models", None, 404, "no such path"),
    ],
)
def test_a_wrong_request_has_its_status_and_says_why(
    sealed: Seal, method: str, path: str, body: Any, status: int, message: str
) -> None:
    with serving(sealed("linear")) as server:
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        got, headers, answer = ask(server, method, path, sent)
        assert (got, headers["content-type"]) == (status, "application/json")
        document = json.loads(answer)
        assert list(document) == ["error"]
        assert message in document["error"]
        assert ask(server, "GET", "/v2/health/ready")[0] == 200


def test_unknown_names_never_become_labels(sealed: Seal) -> None:
    with serving(sealed("linear")) as server:
        for n in range(20):
            ask(server, "POST", f"/v2/models/unknown{n}/infer", b"{}")
        metrics = ask(server, "GET", "/metrics")[2].decode()
        assert "unknown" not in metrics
        assert 'headway_http_responses_total{status="404"} 20.0' in metrics


def test_bodies_past_the_bound_are_refused_by_what_they_say_and_by_what_they_are(sealed: Seal) -> None:
    with serving(sealed("linear"), max_body_bytes=1000, max_json_bytes=500) as server:
        path = "/v2/models/linear/infer"
        assert ask(server, "POST", path, b" " * 900)[0] == 413  # JSON
        assert ask(server, "POST", path, b" " * 1001)[0] == 413
        head = b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\n"
        assert b"413" in raw(server, head + b"Content-Length: 99999999999\r\n\r\n")
        chunk = b"100\r\n" + b" " * 256 + b"\r\n"
        assert b"413" in raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 5)
        body = json.dumps({"inputs": [FITTING]}).encode()
        tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        assert b"200 OK" in raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n", tiny)


@pytest.mark.parametrize("length", ["-1", "+1", "5x", "99999999999999999999999"])
def test_a_content_length_that_lies_never_reaches_the_model(sealed: Seal, length: str) -> None:
    with serving(sealed("linear")) as server:
        head = f"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()
        assert b"400 Bad Request" in raw(server, head)
        assert ask(server, "GET", "/v2/health/ready")[0] == 200


def test_a_body_that_does_not_come_is_given_up_on(sealed: Seal) -> None:
    with serving(sealed("linear"), request_timeout_s=0.3) as server:
        answer = raw(server, b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        assert b"400" in answer
        assert b"did not come in time" in answer


def test_one_bad_request_does_not_fail_its_batch_mates(sealed: Seal) -> None:
    """An index past the table's end is found by the model alone, in the middle of a shared run."""
    with serving(sealed("lookup")) as server, client(server) as one:

        def look(number: int) -> bool:
            index = np.array([99 if number % 7 == 0 else number % 10])
            sent = [infer_input(index, name="index", kind="INT64")]
            if number % 7 == 0:
                with pytest.raises(InferenceServerException, match="refuses these inputs") as caught:
                    one.infer("lookup", sent)
                return caught.value.status() == "400"
            expected = np.array([[2 * index[0], 2 * index[0] + 1]], np.float32)
            return bool((one.infer("lookup", sent).as_numpy("row") == expected).all())

        pending = [
            one.async_infer("lookup", [infer_input(np.array([n % 10]), name="index", kind="INT64")]) for n in range(20)
        ]
        assert all(look(number) for number in range(40))
        assert all(one.get_result() is not None for one in pending)


# Load


def test_32_callers_of_whom_some_vanish_get_their_own_answers(sealed: Seal) -> None:
    wrong: list[str] = []
    counted: Counter[str] = Counter()

    def vanish(server: Server, seed: int) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({"inputs": [FITTING]}).encode()
        head = f"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall((head + body)[: None if seed % 2 else -5])

    def call(server: Server, seed: int) -> None:
        with client(server) as one:
            for n in range(20):
                if seed % 4 == 0:
                    vanish(server, n)
                value = rows(1000 * seed + n, 1 + n % 4)
                got = one.infer("linear", [infer_input(value)]).as_numpy("logits")
                if not np.allclose(got, value @ WEIGHTS, rtol=1e-4, atol=1e-5):
                    wrong.append(f"{seed}/{n}")
                counted["answered"] += 1

    with serving(sealed("linear")) as server:
        threads = [threading.Thread(target=call, args=(server, seed)) for seed in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert counted["answered"] == 32 * 20
        metrics = ask(server, "GET", "/metrics")[2].decode()
        assert 'headway_queued_rows{model="linear",version="1"} 0.0' in metrics


def test_the_work_of_a_client_that_hung_up_is_dropped_before_it_runs(
    sealed: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = behind_gates(monkeypatch)
    with serving(sealed("linear")) as server, client(server) as one:
        first = one.async_infer("linear", [infer_input(np.full((1, 4), 1, np.float32))])
        assert gated[0].entered.wait(10)
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({"inputs": [FITTING | {"data": [2, 2, 2, 2]}]}).encode()
        leaving = [socket.create_connection((host, int(port))) for _ in range(5)]
        for connection in leaving:
            head = f"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        staying = one.async_infer("linear", [infer_input(np.full((1, 4), 3, np.float32))])
        wait_for(server, "headway_queued_rows", 6)
        for connection in leaving:
            connection.close()
        wait_for(server, "headway_queued_rows", 1)
        gated[0].gate.set()
        assert first.get_result().as_numpy("logits").shape == (1, 3)
        assert staying.get_result().as_numpy("logits").shape == (1, 3)
        assert gated[0].ran == [1, 3]
        wait_for(server, "headway_requests_total", 5, outcome="cancelled")


def wait_for(server: Server, name: str, value: float, **labels: str) -> None:
    """Wait until a metric has this value."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        families = text_string_to_metric_families(ask(server, "GET", "/metrics")[2].decode())
        found = [one for family in families for one in family.samples if one.name == name]
        if any(one.value == value and labels.items() <= one.labels.items() for one in found):
            return
        time.sleep(0.01)
    pytest.fail(f"{name} never became {value}")


def test_a_request_of_more_rows_than_the_queue_holds_is_refused_at_once(sealed: Seal) -> None:
    with serving(sealed("linear"), queue_rows=4) as server:
        rows = FITTING["shape"][0]
        many = {**FITTING, "shape": [rows * 5, *FITTING["shape"][1:]], "data": FITTING["data"] * 5}
        status, _headers, answer = ask(
            server, "POST", "/v2/models/linear/infer", json.dumps({"inputs": [many]}).encode()
        )
    assert status == 413
    assert "at most 4 are taken" in json.loads(answer)["error"]


def test_a_full_queue_says_when_to_come_back(sealed: Seal) -> None:
    with serving(sealed("linear"), queue_rows=1, max_batch_rows=1) as server:
        seen: Counter[int] = Counter()
        retry: set[str | None] = set()
        body = json.dumps({"inputs": [FITTING]}).encode()

        def call(_: int) -> None:
            for _ in range(30):
                status, headers, _answer = ask(server, "POST", "/v2/models/linear/infer", body)
                seen[status] += 1
                if status == 503:
                    retry.add(headers.get("retry-after"))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(call, range(16)))
        assert set(seen) <= {200, 503}
        assert seen[200] > 0
        if seen[503]:
            assert retry == {"1"}


# Starting and stopping


def tamper(bundle: Bundle) -> Path:
    report = bundle.path / "report.html"
    report.write_text(report.read_text() + "<script>")
    return bundle.path


def test_a_bundle_that_fails_is_never_listened_for(sealed: Seal, tmp_path: Path) -> None:
    with pytest.raises(TamperedError), serving(tamper(sealed("linear"))):
        pytest.fail("it became ready")
    with pytest.raises(BundleError), serving(tmp_path / "none"):
        pytest.fail("it became ready")
    with pytest.raises(HeadwayError), serving("no-such-name"):
        pytest.fail("it became ready")
    fine = sealed("texts")
    with pytest.raises(ConfigError, match="given twice"), serving(fine, fine.path):
        pytest.fail("it became ready")


def test_a_port_that_is_taken_is_refused_even_by_another_of_our_servers(sealed: Seal) -> None:
    bundle = sealed("linear")
    with serving(bundle) as server:
        port = int(server.url.rsplit(":", 1)[1])
        with (
            pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}"),
            Server([bundle], ServeConfig(http_port=port, grpc_port=0)).running(),
        ):
            pytest.fail("two servers share a port")
        assert ask(server, "GET", "/v2/health/ready")[0] == 200
    with pytest.raises(ConfigError, match="no such address"), serving(bundle, host="no.such.host.invalid"):
        pytest.fail("it became ready")


def test_stopping_is_possible_at_any_time_and_twice(sealed: Seal) -> None:
    server = Server([sealed("linear")], ServeConfig(http_port=0, grpc_port=0))
    server.stop()
    with server.running():
        pass
    server.stop()


@contextmanager
def process(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    command = [sys.executable, "-c", "from headway.cli.main import main; main()", "serve", *arguments, "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        document = ""
        while not document.endswith("}\n"):
            line = running.stdout.readline()
            if not line:
                pytest.fail(running.communicate()[1])
            document += line
        yield running, json.loads(document)
    finally:
        running.kill()
        running.communicate()


def test_sigterm_under_load_answers_what_was_accepted_and_exits_0(sealed: Seal) -> None:
    """A caller may find the door closed, but one that was let in gets its right answer."""
    outcomes: Counter[str] = Counter()
    stopping = threading.Event()
    body = json.dumps({"inputs": [FITTING]}).encode()

    def call(address: str) -> None:
        connection = http.client.HTTPConnection(address, timeout=20)
        while True:
            try:
                connection.request("POST", "/v2/models/linear/infer", body)
                answer = connection.getresponse()
                content = answer.read()
            except ConnectionRefusedError:
                outcomes["refused"] += 1
                break
            except (ConnectionError, http.client.BadStatusLine):
                # The connection was idle when the server closed it; the request never got in.
                outcomes["closed while idle"] += 1
                assert stopping.is_set()
                connection.close()
                continue
            assert answer.status == 200, content
            assert json.loads(content)["outputs"][0]["data"] == pytest.approx(
                (np.array([1, 2, 3, 4]) @ WEIGHTS).tolist()
            )
            outcomes["answered"] += 1
        connection.close()

    with process(str(sealed("linear").path), "--http-port", "0", "--grpc-port", "0") as (running, ready):
        address = ready["url"].removeprefix("http://")
        with ThreadPoolExecutor(32) as pool:
            calls = [pool.submit(call, address) for _ in range(32)]
            while outcomes["answered"] < 500:
                time.sleep(0.01)
            stopping.set()
            running.send_signal(signal.SIGTERM)
            for one in calls:
                one.result()
        assert running.wait(20) == 0
        assert running.stderr is not None
        log = [json.loads(line) for line in running.stderr.read().splitlines()]
    assert outcomes["refused"] == 32
    assert [line["message"] for line in log] == [
        "variant chosen",
        "model loaded",
        "listening",
        "shutting down",
        "stopped",
    ]
    assert log[-1]["requests"] == {"ok": outcomes["answered"]}, "a request that was let in was not answered"


def test_sigint_ends_it_as_well(sealed: Seal) -> None:
    with process(str(sealed("linear").path), "--http-port", "0", "--grpc-port", "0") as (running, ready):
        assert ready["models"] == ["linear"]
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0


def test_a_slow_client_does_not_hold_a_shutdown_up_for_ever(sealed: Seal) -> None:
    with serving(sealed("linear"), drain_s=0.2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        slow = socket.create_connection((host, int(port)))
        slow.sendall(b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        assert ask(server, "GET", "/v2/health/live")[0] == 200
        began = time.monotonic()
    assert time.monotonic() - began < 15
    slow.close()


_BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "torch_pruning", "sklearn", "matplotlib", "onnxscript"}:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_serving_needs_neither_torch_nor_onnx(sealed: Seal) -> None:
    bundle = sealed("linear")
    script = _BLOCKED + (
        "import sys, json, urllib.request\n"
        "from headway.serve.config import ServeConfig\n"
        "import headway, numpy\n"
        "with headway.Server([sys.argv[1]], ServeConfig(http_port=0, grpc_port=0)).running() as server:\n"
        "    assert json.load(urllib.request.urlopen(server.url + '/v2/health/ready'))['ready']\n"
        "with headway.load(sys.argv[1]) as model:\n"
        "    print(model({'input': numpy.ones((1, 4), 'f4')})['logits'].shape)\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle.path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 3)"


def test_importing_the_rooms_of_serving_imports_no_torch() -> None:
    script = "import headway.serve.server, headway.serve.local, sys; print({'torch', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
