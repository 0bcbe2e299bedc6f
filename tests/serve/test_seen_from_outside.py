"""What an operator sees of a server: trace headers, the log of its requests, its metrics, its traces, its health.

Attacks 22 (forged log lines, secrets in logs, label cardinality) and 25 (readiness that lies) are sent here.
"""

import http.client
import json
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from headway.bundles.bundle import Bundle
from headway.core.errors import BundleError
from headway.runtimes.onnx_runtime import OnnxSession
from headway.serve.config import ServeConfig
from headway.serve.server import Server

Seal = Callable[..., Bundle]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
INFER = "/v2/models/linear/infer"
FITTING = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
ROWS = np.ones((2, 4), np.float32)


@contextmanager
def serving(*models: Any, **settings: Any) -> Iterator[Server]:
    with Server(models, ServeConfig(**{"http_port": 0, "grpc_port": None, **settings})).running() as server:
        yield server


def ask(
    server: Server, method: str, path: str, document: Any = None, headers: list[tuple[str, str]] | None = None
) -> tuple[int, Any, bytes]:
    """Send one request; headers may repeat, and nothing about path or headers is mended."""
    body = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in [("content-length", str(len(body))), *(headers or [])]:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def metric(server: Server, name: str, **labels: str) -> float:
    """The value of one sample; 0 where there is none."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:  # noqa: S310
        text = answer.read().decode()
    samples = (sample for family in parse_text(text) for sample in family.samples)
    return next((one.value for one in samples if one.name == name and labels.items() <= one.labels.items()), 0.0)


class Gate:
    """Stands before every run of every ONNX model."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.failure: Exception | None = None


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Open until a test closes it."""
    run, gate = OnnxSession.run, Gate()
    gate.open.set()

    def behind(self: OnnxSession, inputs: Any) -> Any:
        gate.entered.set()
        assert gate.open.wait(60)
        if gate.failure is not None:
            raise type(gate.failure)(*gate.failure.args)  # a new one: its traceback holds the whole server
        return run(self, inputs)

    monkeypatch.setattr(OnnxSession, "run", behind)
    yield gate
    gate.open.set()


# Trace headers


def test_an_answer_names_the_callers_trace(sealed: Seal) -> None:
    with serving(sealed("linear"), log_requests="none") as server:
        for method, path, document in (("POST", INFER, FITTING), ("POST", INFER, {}), ("GET", "/nothing", None)):
            _, headers, _ = ask(server, method, path, document, [("traceparent", PARENT)])
            assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", headers["traceresponse"])
        first, second = (ask(server, "GET", "/v2", None, [("Traceparent", PARENT)])[1] for _ in range(2))
        assert first["traceresponse"] != second["traceresponse"]  # each is a span of its own
        for sent in ([], [("traceparent", "00-nonsense-01")], [("traceparent", PARENT), ("traceparent", PARENT)]):
            status, headers, _ = ask(server, "POST", INFER, FITTING, sent)
            assert status == 200
            assert "traceresponse" not in headers


def test_a_grpc_answer_does_too(sealed: Seal) -> None:
    with serving(sealed("linear"), grpc_port=0) as server, grpc.insecure_channel(server.grpc_address) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert trailing(live.with_call(b"", metadata=[("traceparent", PARENT)])[1]).startswith(f"00-{TRACE}-")
        for sent in ([], [("traceparent", "x")]):
            assert trailing(live.with_call(b"", metadata=sent)[1]) == ""
        with pytest.raises(grpc.RpcError) as refused:
            infer(b"", metadata=[("traceparent", PARENT)])
        assert refused.value.code().name == "NOT_FOUND"
        assert trailing(refused.value).startswith(f"00-{TRACE}-")


def trailing(call: Any) -> str:
    return dict(call.trailing_metadata() or ()).get("traceresponse", "")


# The log


def test_what_fails_is_explained_in_the_log(sealed: Seal, log: Any) -> None:
    with serving(sealed("linear"), grpc_port=0) as server:
        assert ask(server, "POST", INFER, FITTING)[0] == 200
        assert ask(server, "POST", INFER, {"inputs": []}, [("traceparent", PARENT)])[0] == 400
        assert ask(server, "POST", "/v2/models/other/infer", FITTING)[0] == 404
        assert ask(server, "PUT", INFER)[0] == 405
        client = triton_grpc.InferenceServerClient(server.grpc_address)
        with client, pytest.raises(triton_grpc.InferenceServerException):
            client.infer("linear", [], headers={"traceparent": PARENT})
    wrong, unknown, method, call = log.lines("request")
    assert (wrong["method"], wrong["route"], wrong["model"]) == ("POST", "/v2/models/{model}/infer", "linear")
    assert (wrong["status"], wrong["outcome"], wrong["request_id"]) == (400, "wrong", TRACE)
    assert (unknown["model"], unknown["status"], unknown["outcome"]) == ("other", 404, "not_found")
    assert len(unknown["request_id"]) == 32
    assert (method["method"], method["route"], method["status"]) == ("PUT", INFER, 405)
    assert (call["method"], call["status"], call["outcome"]) == ("ModelInfer", "INVALID_ARGUMENT", "wrong")
    assert (call["model"], call["version"], call["request_id"]) == ("linear", "", TRACE)


def test_every_request_is_told_where_asked_for(sealed: Seal, log: Any) -> None:
    with serving(sealed("linear"), log_requests="all") as server:
        ask(server, "POST", INFER, FITTING)
        ask(server, "GET", "/v2/health/ready?token=secret")
    infer, ready = log.lines("request")
    assert (infer["model"], infer["version"], infer["outcome"], infer["rows"]) == ("linear", "1", "ok", 1)
    stages = [infer[f"{stage}_ms"] for stage in ("decode", "queue", "infer", "encode")]
    assert all(spent >= 0 for spent in stages)
    assert sum(stages) <= infer["whole_ms"] + 0.01
    assert (ready["route"], ready["outcome"], ready["rows"]) == ("/v2/health/ready", "ok", 0)


def test_a_failure_of_ours_is_found_by_the_id_its_caller_got(sealed: Seal, log: Any, gate: Gate) -> None:
    with serving(sealed("linear")) as server:
        gate.failure = ValueError("the secret is 4.25")  # as a runtime may quote what it was given
        status, _, body = ask(server, "POST", INFER, FITTING)
        traced = ask(server, "POST", INFER, FITTING, [("traceparent", PARENT)])
    assert status == 500
    number = re.fullmatch(r"the model failed: ValueError \(request ([0-9a-f]{32})\)", json.loads(body)["error"])
    assert number is not None
    failed, request = (line for line in log.lines() if line.get("request_id") == number[1])
    assert (failed["message"], failed["level"]) == ("request failed", "error")
    assert "ValueError" in failed["traceback"]
    assert "in behind" in failed["traceback"]  # where it was raised
    assert (request["message"], request["outcome"], request["model"]) == ("request", "failed", "linear")
    assert f"(request {TRACE})" in traced[2].decode()
    assert "4.25" not in log.getvalue()


HOSTILE = '\r\n{"level": "error", "message": "forged"}\r\n\x1b[2J\x1b]0;owned\x07\u2028\x85'
SECRET = "hunter2"  # noqa: S105


def test_nothing_that_is_sent_forges_a_line_or_leaves_a_secret(sealed: Seal, log: Any, gate: Gate) -> None:
    secrets = [("authorization", f"Bearer {SECRET}"), ("cookie", f"session={SECRET}"), ("x-api-key", SECRET)]
    quoted = urllib.parse.quote(HOSTILE)
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [SECRET]}
    with serving(sealed("linear"), sealed("texts"), grpc_port=0, log_requests="all") as server:
        for path in (f"/v2/models/{quoted}/infer", f"/{quoted}", f"/v2/models/linear/versions/{quoted}/infer"):
            assert ask(server, "POST", path, FITTING, secrets)[0] == 404
            assert ask(server, "GET", f"{path}?key={SECRET}", None, secrets)[0] in (404, 405)
        assert ask(server, "GET", "/" + "x" * 60_000, None, secrets)[0] in (404, 414, 431)
        inputs: list[Any] = [
            {"inputs": [text | {"name": HOSTILE}]},
            {"inputs": [text | {"datatype": HOSTILE}]},
            {"inputs": [text | {"shape": [HOSTILE]}]},
            {"inputs": [text | {"data": [SECRET, SECRET]}]},
            {"inputs": [text], "outputs": [{"name": HOSTILE}]},
            {"inputs": [text], "id": HOSTILE},
            {"inputs": [text]},
            f'{{"inputs": [{SECRET}'.encode(),
            HOSTILE.encode() * 1000,
        ]
        sent = triton_grpc.InferInput("text", [1], "BYTES")
        sent.set_data_from_numpy(np.array([SECRET.encode()], object))
        with triton_grpc.InferenceServerClient(server.grpc_address) as client:
            client.infer("texts", [sent], headers={"authorization": SECRET}, request_id=HOSTILE)
            with pytest.raises(triton_grpc.InferenceServerException):
                client.infer(HOSTILE, [sent], headers={"authorization": SECRET}, request_id=HOSTILE)
            for failure in (None, RuntimeError(f"cannot run with {SECRET!r}{HOSTILE}")):
                gate.failure = failure
                for document in inputs:
                    ask(server, "POST", "/v2/models/texts/infer", document, [*secrets, ("traceparent", SECRET)])
            with pytest.raises(triton_grpc.InferenceServerException):
                client.infer("texts", [sent], headers={"authorization": SECRET})
    lines = log.lines()  # each of them is one JSON document
    assert {line["message"] for line in lines} <= {
        "model loaded", "variant chosen", "listening", "request", "request failed", "shutting down", "stopped",
    }  # fmt: skip
    assert {line["outcome"] for line in log.lines("request")} >= {"ok", "wrong", "not_found", "failed"}
    written = log.getvalue()
    assert SECRET not in written
    assert not set(written) & set("\x1b\r\x07\u2028\x85")
    assert max(len(line) for line in written.splitlines()) < 25_000


# Metrics


def test_metrics_are_what_both_formats_ask_for(sealed: Seal) -> None:
    with serving(sealed("linear")) as server:
        ask(server, "POST", INFER, FITTING)
        _, headers, body = ask(server, "GET", "/metrics")
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = {family.name for family in parse_text(body.decode())}
        accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75"
        _, headers, body = ask(server, "GET", "/metrics", None, [("accept", accept)])
        assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert {family.name for family in parse_openmetrics(body.decode())} == text
        assert metric(server, "headway_request_seconds_count", model="linear") == 1
        assert metric(server, "headway_event_loop_lag_seconds_bucket") >= 0
        assert metric(server, "process_resident_memory_bytes") > 1e6


def test_each_request_is_counted_by_how_it_ended(sealed: Seal, gate: Gate) -> None:
    with serving(sealed("linear"), max_body_bytes=100_000, queue_rows=4) as server:
        ask(server, "POST", INFER, FITTING)
        ask(server, "POST", INFER, {"inputs": [FITTING["inputs"][0] | {"name": "x"}]})
        wide = {"name": "input", "shape": [5, 4], "datatype": "FP32", "data": [0] * 20}
        ask(server, "POST", INFER, {"inputs": [wide]})
        gate.failure = ValueError()
        ask(server, "POST", INFER, FITTING)
        for outcome in ("ok", "wrong", "too_large", "failed"):
            assert metric(server, "headway_requests_total", model="linear", outcome=outcome) == 1
        ask(server, "POST", INFER, b"{")  # no model has seen these
        ask(server, "POST", INFER, b" " * 100_001)
        ask(server, "POST", "/v2/models/other/infer", FITTING)
        ask(server, "GET", "/nothing")
        refused = {name: metric(server, "headway_refused_total", outcome=name) for name in ("wrong", "too_large")}
        assert refused == {"wrong": 1, "too_large": 1}
        assert metric(server, "headway_refused_total", outcome="not_found") == 2
        assert metric(server, "headway_requests_total", model="linear", outcome="wrong") == 1


def test_requests_under_way_are_seen(sealed: Seal, gate: Gate) -> None:
    with serving(sealed("linear"), brief_run_ms=0) as server:
        gate.entered.clear()
        gate.open.clear()
        asking = threading.Thread(target=ask, args=(server, "POST", INFER, FITTING))
        asking.start()
        assert gate.entered.wait(30)
        assert metric(server, "headway_requests_in_flight") == 2  # and the scrape
        gate.open.set()
        asking.join()
        assert metric(server, "headway_requests_in_flight") == 1


def test_no_caller_makes_a_label(sealed: Seal) -> None:
    def series(server: Server) -> set[str]:
        text = ask(server, "GET", "/metrics")[2].decode()
        return {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}

    with serving(sealed("linear"), log_requests="none") as server:
        flood(server, range(1))
        series(server)
        before = series(server)
        flood(server, range(1, 60))
        assert series(server) == before


def flood(server: Server, numbers: range) -> None:
    for number in numbers:
        ask(server, "POST", f"/v2/models/model{number}/infer", FITTING)
        ask(server, "POST", f"/v2/models/linear/versions/{number + 7}/infer", FITTING)
        ask(server, f"VERB{number}", INFER)
        ask(server, "GET", f"/path{number}", None, [("traceparent", f"00-{TRACE}-{number + 1:016x}-01")])
        document = {"inputs": [FITTING["inputs"][0] | {"name": f"input{number}"}]}
        ask(server, "POST", INFER, document)


# Traces


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.taken: list[tuple[str, ExportTraceServiceRequest]] = []


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.taken.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{one.server_port}")
        yield one
        one.shutdown()
        thread.join()


def test_traces_reach_a_collector(sealed: Seal, collector: Collector, gate: Gate) -> None:
    with serving(sealed("linear"), traces=True, grpc_port=0, brief_run_ms=0) as server:
        gate.entered.clear()
        gate.open.clear()
        threads = [threading.Thread(target=infer, args=(server, wire)) for wire in ("http", "http", "grpc")]
        threads[0].start()
        assert gate.entered.wait(30)
        for thread in threads[1:]:
            thread.start()
        while metric(server, "headway_queued_rows") < 4:  # they wait for the run to end, and so share the next
            threading.Event().wait(0.01)
        gate.open.set()
        for thread in threads:
            thread.join()
        ask(server, "POST", INFER, FITTING, [("traceparent", PARENT.replace("-01", "-00"))])
    assert {path for path, _ in collector.taken} == {"/v1/traces"}
    spans = [
        span for _, sent in collector.taken for resource in sent.resource_spans
        for scope in resource.scope_spans for span in scope.spans
    ]  # fmt: skip
    roots = [span for span in spans if span.parent_span_id == bytes.fromhex(SPAN)]
    assert sorted(span.name for span in roots) == ["ModelInfer", *["POST /v2/models/{model}/infer"] * 2]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    for root in roots:
        stages = {span.name for span in spans if span.parent_span_id == root.span_id} - {"run"}
        assert stages == {"decode", "queue", "infer", "encode"}
    runs = sorted((span for span in spans if span.name == "run"), key=lambda span: len(span.links))
    assert [len(run.links) for run in runs] == [1, 2]
    linked = {link.span_id for run in runs for link in run.links}
    assert linked == {root.span_id for root in roots}


def infer(server: Server, wire: str) -> None:
    if wire == "http":
        document = {"inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [1.0] * 8}]}
        status, headers, _ = ask(server, "POST", INFER, document, [("traceparent", PARENT)])
        assert (status, headers["traceresponse"][-3:]) == (200, "-01")
        return
    with triton_grpc.InferenceServerClient(server.grpc_address) as client:
        sent = triton_grpc.InferInput("input", [2, 4], "FP32")
        sent.set_data_from_numpy(ROWS)
        client.infer("linear", [sent], headers={"traceparent": PARENT})


# Health


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def refuses(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(5)
        return one.connect_ex(("127.0.0.1", port)) != 0


def test_nobody_is_told_ready_before_the_golden_samples_matched(sealed: Seal, gate: Gate) -> None:
    gate.open.clear()
    http_port, grpc_port = free_port(), free_port()
    config = ServeConfig(http_port=http_port, grpc_port=grpc_port, choose_seconds=0)
    server, ready = Server([sealed_behind(gate, sealed)], config), threading.Event()

    def run() -> None:
        with server.running():
            ready.set()
            stop.wait()

    stop = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert gate.entered.wait(60)  # the replay is under way
        for _ in range(20):
            assert refuses(http_port)
            assert refuses(grpc_port)
        assert not ready.is_set()
        gate.open.set()
        assert ready.wait(60)
        status, _, body = ask(server, "GET", "/v2/health/ready")
        assert (status, json.loads(body)["ready"]) == (200, True)
        assert ask(server, "GET", "/v2/models/linear/ready")[0] == 200
    finally:
        gate.open.set()
        stop.set()
        thread.join()


def sealed_behind(gate: Gate, sealed: Seal) -> Path:
    """A bundle; sealing it runs it, so the gate is open meanwhile."""
    gate.open.set()
    bundle = sealed("linear")
    gate.open.clear()
    gate.entered.clear()
    return bundle.path


def test_a_bundle_whose_golden_samples_differ_never_answers(sealed: Seal, gate: Gate) -> None:
    bundle = sealed("linear")
    gate.failure = ValueError("it does not run here")
    port = free_port()
    with pytest.raises((BundleError, ValueError)), serving(bundle, http_port=port):
        pytest.fail("it answers")
    assert refuses(port)
