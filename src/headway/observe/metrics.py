"""Prometheus metrics of one server, in a registry of their own: two servers in one process do not mix.

Labels are bounded: a model is named only once it is loaded, and outcomes are a fixed list.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

Outcome = Literal["ok", "wrong", "full", "late", "unavailable", "cancelled", "failed"]
_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class ModelMetrics:
    """What is counted of one version of a model. Children are looked up once: labels cost more than counting."""

    def __init__(self, server: "Metrics", model: str, version: str) -> None:
        self._outcomes = {outcome: server.requests.labels(model, version, outcome) for outcome in _OUTCOMES}
        self._whole = server.whole.labels(model, version)
        self._queue = server.queue.labels(model, version)
        self._infer = server.infer.labels(model, version)
        self._batch_rows = server.batch_rows.labels(model, version)
        self._queued = server.queued_rows.labels(model, version)
        self.ready = server.ready.labels(model, version)

    def watch_queue(self, rows: Callable[[], float]) -> None:
        """Read the queue's length from `rows` whenever the metrics are read."""
        self._queued.set_function(rows)

    def answered(self, outcome: Outcome, seconds: float) -> None:
        """A request ended so, `seconds` after it was read."""
        self._outcomes[outcome].inc()
        self._whole.observe(seconds)

    def batch_ran(self, *, rows: int, waited: Sequence[float], seconds: float) -> None:
        """A run over `rows` rows took `seconds`; its requests had waited for `waited` seconds each."""
        self._infer.observe(seconds)
        self._batch_rows.observe(rows)
        for wait in waited:
            self._queue.observe(wait)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ("model", "version")

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"headway_{name}_seconds", text, model, buckets=_SECONDS, registry=self.registry)

        self.requests = Counter(
            "headway_requests", "Inference requests by how they ended.", (*model, "outcome"), registry=self.registry
        )
        self.whole = seconds("request", "From the request's last byte read to its answer made.")
        self.queue = seconds("queue", "From acceptance to the start of the run.")
        self.infer = seconds("infer", "One run of the model, whatever its rows.")
        self.batch_rows = Histogram(
            "headway_batch_rows", "Rows of a run.", model, buckets=_ROWS, registry=self.registry
        )
        self.queued_rows = Gauge("headway_queued_rows", "Rows that wait for a run.", model, registry=self.registry)
        self.ready = Gauge("headway_model_ready", "1 once the golden samples matched.", model, registry=self.registry)
        self.responses = Counter(
            "headway_http_responses", "HTTP responses by status.", ("status",), registry=self.registry
        )
        ProcessCollector(registry=self.registry)

    def model(self, name: str, version: str) -> ModelMetrics:
        """The metrics of one version of a model that is loaded."""
        return ModelMetrics(self, name, version)

    def render(self) -> bytes:
        """The Prometheus text format, of content type `CONTENT_TYPE`."""
        return generate_latest(self.registry)
