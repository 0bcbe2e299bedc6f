"""Traces: the spans of a request, whose parent its caller is, and which requests have some."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from headway.core.errors import MissingDependencyError
from headway.observe.metrics import Metrics
from headway.observe.observer import Observer
from headway.observe.requests import CURRENT, RequestRecord, batch_ran
from headway.observe.traces import Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class Traced:
    """An observer whose spans are kept; `spans` ends it."""

    def __init__(self) -> None:
        self.kept = InMemorySpanExporter()
        self.tracer = Tracer(self.kept)
        self.observer = Observer(Metrics(), tracer=self.tracer)

    def begin(self, traceparent: str | None = None, tracestate: str | None = None) -> RequestRecord:
        record = self.observer.begin("POST", traceparent, tracestate, traced=True)
        record.route, record.model, record.version = "/v2/models/{model}/infer", "digits", "3"
        record.entered, record.rows = record.began, 2
        return record

    def end(self, record: RequestRecord, status: int | str = 200, outcome: Any = "ok") -> None:
        record.outcome, record.answered = outcome, record.began + 0.02
        self.observer.end(record, status, outcome)

    def answer(self, traceparent: str | None = None) -> RequestRecord:
        record = self.begin(traceparent)
        batch_ran([record], [0.001], rows=2, began=record.began + 0.001, seconds=0.01)
        self.end(record)
        return record

    def spans(self) -> tuple[ReadableSpan, ...]:
        asyncio.run(self.observer.close())
        return self.kept.get_finished_spans()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    token = CURRENT.set(None)
    one = Traced()
    yield one
    one.spans()
    CURRENT.reset(token)


def named(spans: tuple[ReadableSpan, ...], name: str) -> ReadableSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_a_request_and_its_stages_are_spans(traced: Traced) -> None:
    record = traced.begin(SAMPLED, "vendor=place")
    record.stage("preprocess", record.began, 0.001)
    batch_ran([record], [0.001], rows=2, began=record.began + 0.002, seconds=0.01)
    told = record.response()
    traced.end(record)
    spans = traced.spans()
    root = named(spans, "POST /v2/models/{model}/infer")
    assert root.kind is SpanKind.SERVER
    assert root.context is not None
    assert root.parent is not None
    assert f"{root.parent.trace_id:032x}-{root.parent.span_id:016x}" == f"{TRACE}-{SPAN}"
    assert told == f"00-{TRACE}-{root.context.span_id:016x}-01"
    assert root.context.trace_state.get("vendor") == "place"
    assert root.attributes == {
        "http.request.method": "POST", "http.route": "/v2/models/{model}/infer", "http.response.status_code": 200,
        "headway.model": "digits", "headway.version": "3", "headway.outcome": "ok", "headway.rows": 2,
    }  # fmt: skip
    assert root.resource.attributes["service.name"] == "headway"
    stages = [span for span in spans if span is not root]
    assert {span.name for span in stages} == {"decode", "preprocess", "queue", "infer", "run", "encode"}
    assert all(span.parent == root.context for span in stages)
    infer = named(spans, "infer")
    assert root.start_time is not None
    assert infer.start_time is not None
    assert infer.end_time is not None
    assert infer.start_time - root.start_time == pytest.approx(2e6, abs=5000)
    assert infer.end_time - infer.start_time == pytest.approx(1e7, abs=5000)


def test_a_shared_run_is_told_once_and_linked_with_its_requests(traced: Traced) -> None:
    records = [traced.begin(SAMPLED), traced.begin(UNSAMPLED), traced.begin()]
    batch_ran([*records, None], [0.001] * 4, rows=9, began=records[0].began, seconds=0.01)
    for record in records:
        traced.end(record)
    spans = traced.spans()
    run = named(spans, "run")
    roots = [span for span in spans if span.kind is SpanKind.SERVER]
    assert len(roots) == 2  # one caller does not want to be traced
    assert {link.context.span_id for link in run.links} == {span.context.span_id for span in roots if span.context}
    assert run.attributes == {"headway.rows": 9, "headway.requests": 2}
    shared = [span for span in spans if span.name == "infer"]
    assert [[link.context for link in span.links] for span in shared] == [[run.context], [run.context]]


def test_a_callers_wish_not_to_be_traced_is_honoured(traced: Traced) -> None:
    record = traced.answer(UNSAMPLED)
    assert record.response().startswith(f"00-{TRACE}-")
    assert record.response().endswith("-00")
    assert traced.spans() == ()


def test_an_invalid_parent_begins_a_trace_of_its_own(traced: Traced) -> None:
    record = traced.answer("00-nonsense-01")
    (root,) = [span for span in traced.spans() if span.kind is SpanKind.SERVER]
    assert root.parent is None
    assert root.context is not None
    assert record.id == f"{root.context.trace_id:032x}"


def test_a_failure_of_ours_is_an_error_and_one_of_the_callers_is_not(traced: Traced) -> None:
    for status, outcome in ((500, "failed"), (400, "wrong"), ("INTERNAL", "failed")):
        traced.end(traced.begin(), status, outcome)
    roots = [span for span in traced.spans() if span.kind is SpanKind.SERVER]
    assert [span.status.status_code for span in roots] == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.ERROR]
    assert roots[2].attributes is not None
    assert roots[2].attributes["rpc.response.status_code"] == "INTERNAL"


def test_what_is_traced_can_be_changed_while_it_runs(traced: Traced) -> None:
    sampling = traced.tracer.sampling
    sampling.rate = 3
    assert [traced.answer().span is not None for _ in range(6)] == [False, False, True] * 2
    assert traced.answer(SAMPLED).span is not None  # the caller decides before the rate does
    sampling.rate, sampling.count = 1, 2
    assert [traced.answer().span is not None for _ in range(3)] == [True, True, False]
    sampling.on, sampling.count = False, -1
    assert traced.answer(SAMPLED).span is None


def test_the_environments_sampler_decides(monkeypatch: pytest.MonkeyPatch, traced: Traced) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    off = Traced()
    off.answer(SAMPLED)
    assert off.spans() == ()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    on = Traced()
    on.answer()
    assert on.spans()[0].resource.attributes["service.name"] == "ours"


def test_probes_are_not_traced(traced: Traced) -> None:
    traced.observer.end(traced.observer.begin("GET", SAMPLED), 200, "ok")
    assert traced.spans() == ()


def test_a_hostile_tracestate_is_dropped_and_not_logged(traced: Traced, log: Any) -> None:
    record = traced.begin(SAMPLED, "secret;;\x1b[2J=,=" * 1000)
    traced.end(record)
    (root,) = [span for span in traced.spans() if span.kind is SpanKind.SERVER]
    assert root.context is not None
    assert not root.context.trace_state
    assert log.getvalue() == ""


def test_a_collector_that_is_not_there_is_told_in_the_log(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # discard; nobody listens
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracer = Tracer()
    record = RequestRecord()
    tracer.begin(record)
    record.span.end(record, 200, "ok", record.began)
    asyncio.run(tracer.close())
    assert log.lines()  # each of them JSON


def test_it_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(MissingDependencyError, match=r"headway\[otel\]"):
        Tracer()


def test_without_traces_nothing_of_it_is_imported() -> None:
    code = "import sys, headway.serve.server; print('opentelemetry' in sys.modules, 'pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "False False\n"
    )
