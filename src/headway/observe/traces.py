"""OpenTelemetry traces (the extra `[otel]`): a span for each request, and one for each stage of it.

    POST /v2/models/{model}/infer            the caller's traceparent is its parent
    ├── decode, preprocess, queue            as far as there were such stages
    ├── infer ........................ link  to the run that it shared
    ├── run                                  of the model; in the first of its requests, with a link to each
    └── postprocess, encode

Where spans go, and which are kept, OpenTelemetry's own environment variables say: `OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_BSP_*` and so on. They travel as OTLP over HTTP.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import time_ns
from typing import TYPE_CHECKING, Any

from headway.core.plugins import missing
from headway.observe.logs import logger
from headway.observe.metrics import Outcome
from headway.observe.requests import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Span, SpanContext

_LAST_SPANS_S = 3.0  # to send what is left at shutdown, where the collector does not answer


@dataclass
class Sampling:
    """Which requests are traced; may be changed while the server runs. Named after Triton's trace settings.

    Attributes:
        on: `trace_level` other than OFF.
        rate: `trace_rate`: of requests whose caller does not say whether to trace, one in so many is.
        count: `trace_count`: how many more of those; -1 is without end.
    """

    on: bool = True
    rate: int = 1
    count: int = -1


def require() -> None:
    """Raises `MissingDependencyError` where OpenTelemetry is not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing(error.name or "opentelemetry", needed_by="traces", extra="otel") from error


class Tracer:
    """Makes the spans of requests.

    Args:
        exporter: takes the spans; without it, OTLP over HTTP as the environment says.

    Attributes:
        sampling: may be changed at any time.

    Raises:
        MissingDependencyError: OpenTelemetry is not installed.
    """

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        require()
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # What the exporter has to tell becomes lines of our log; what a caller's tracestate holds does not.
        logging.getLogger("opentelemetry").parent = logger
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
        self.sampling = Sampling()
        self._exporter = exporter or OTLPSpanExporter()
        self._provider = _provider()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._trace = trace
        self._tracer = self._provider.get_tracer("headway")
        self._nobody = Context()
        self._unasked = 0

    def begin(self, record: RequestRecord, tracestate: str | None = None) -> None:
        """Begin the span of a request, if it is to be traced."""
        if not self.sampling.on or (record.parent is None and not self._chosen()):
            return
        context = self._nobody if record.parent is None else self._context(record, tracestate)
        began = time_ns()
        kind = self._trace.SpanKind.SERVER
        span = self._tracer.start_span(record.method, context=context, kind=kind, start_time=began)
        if span.is_recording():
            ours = span.get_span_context()
            record.traced(RequestSpan(self, span, began - _ns(record.began)), ours.trace_id, ours.span_id)

    async def close(self) -> None:
        """Send what was not sent yet."""
        sending = asyncio.get_running_loop().run_in_executor(None, self._provider.shutdown)
        await asyncio.wait([sending], timeout=_LAST_SPANS_S)
        if not sending.done():
            await asyncio.to_thread(self._exporter.shutdown)  # which ends the waiting between its attempts
        await sending

    def child(
        self, of: "Span", name: str, began: int, ended: int, *, links: "Sequence[Link]" = (), **attributes: Any
    ) -> "SpanContext":
        """A span in `of` that is over already; its times are nanoseconds since the epoch."""
        context = self._trace.set_span_in_context(of, self._nobody)
        span = self._tracer.start_span(name, context=context, start_time=began, links=links, attributes=attributes)
        span.end(ended)
        return span.get_span_context()

    def link(self, context: "SpanContext") -> "Link":
        """A link to another span."""
        return self._trace.Link(context)

    def failed(self, span: "Span", text: str) -> None:
        """Mark a span as one of an error of ours."""
        span.set_status(self._trace.StatusCode.ERROR, text)

    def _chosen(self) -> bool:
        """Whether to trace a request whose caller did not say."""
        sampling = self.sampling
        self._unasked += 1
        if sampling.count == 0 or self._unasked % sampling.rate:
            return False
        sampling.count -= sampling.count > 0
        return True

    def _context(self, record: RequestRecord, tracestate: str | None) -> Any:
        trace, parent = self._trace, record.parent
        assert parent is not None  # noqa: S101
        state = trace.TraceState.from_header([tracestate] if tracestate else [])
        remote = trace.SpanContext(
            int(parent.trace_id, 16),
            int(parent.span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(parent.sampled),
            trace_state=state,
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(remote), self._nobody)


class RequestSpan:
    """The span of one request that is traced."""

    def __init__(self, tracer: Tracer, span: "Span", epoch: int) -> None:
        self._tracer, self._span = tracer, span
        self._epoch = epoch  # of `perf_counter`, in nanoseconds
        self._run: SpanContext | None = None

    def shared_run(self, spans: "Sequence[RequestSpan]", *, rows: int, began: float, seconds: float) -> None:
        """The requests of these spans, this one among them, shared a run."""
        tracer, start = self._tracer, self._epoch + _ns(began)
        links = [tracer.link(one._span.get_span_context()) for one in spans]
        counts = {"headway.rows": rows, "headway.requests": len(spans)}
        run = tracer.child(self._span, "run", start, start + _ns(seconds), links=links, **counts)
        for one in spans:
            one._run = run

    def end(self, record: RequestRecord, status: int | str, outcome: Outcome, now: float) -> None:
        """The request is answered: so ends its span, and so its stages are told."""
        span, tracer = self._span, self._tracer
        for name, began, seconds in record.stages(now):
            start = self._epoch + _ns(began)
            links = [tracer.link(self._run)] if name == "infer" and self._run is not None else []
            tracer.child(span, name, start, start + _ns(seconds), links=links)
        if isinstance(status, int):
            span.update_name(f"{record.method} {record.route}".strip())
            wire: dict[str, str | int] = {
                "http.request.method": record.method,
                "http.route": record.route,
                "http.response.status_code": status,
            }
        else:
            wire = {"rpc.system.name": "grpc", "rpc.method": record.method, "rpc.response.status_code": status}
        span.set_attributes(wire)
        span.set_attributes(
            {
                "headway.model": record.model,
                "headway.version": record.version,
                "headway.outcome": outcome,
                "headway.rows": record.rows,
            }
        )
        if outcome == "failed":
            tracer.failed(span, outcome)
        span.end(self._epoch + _ns(now))


def _provider() -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "headway"}))
    return TracerProvider(resource=resource)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
