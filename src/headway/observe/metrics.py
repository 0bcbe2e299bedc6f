"""Prometheus metrics of one server, in a registry of their own: two servers in one process do not mix.

Counting happens for every request, reading a few times a minute. So what is counted are plain numbers, touched by the
event loop's thread alone, and they become Prometheus' types when `/metrics` is read. Labels are bounded: a model is
named only once it is loaded, and outcomes and statuses are short lists. `make docs` lists every metric in
docs/observability.md.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from time import time_ns
from typing import Any, Literal

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.observe import exposition
from headway.observe.accelerators import Accelerators
from headway.observe.cache_counts import CacheCounts, families
from headway.observe.process import ThreadSeconds

Outcome = Literal[
    "ok", "wrong", "too_large", "unsupported", "not_found", "full", "late", "unavailable", "cancelled", "failed"
]
OUTCOMES: dict[Outcome, str] = {
    "ok": "answered",
    "wrong": "the request does not fit the model, or is not what the protocol says",
    "too_large": "more bytes or rows than the server takes",
    "unsupported": "the protocol knows it, this server does not",
    "not_found": "no such path, model or version",
    "full": "refused at once, for the queue is full",
    "late": "its deadline passed before there was an answer",
    "unavailable": "the model is being unloaded, or the server shut down",
    "cancelled": "its caller went away",
    "failed": "ours: the model failed, or the server did; the log has the reason",
}
_SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_LAG_SECONDS = _SECONDS[4:15]
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_MOST_SIZES = 256  # a caller chooses how many rows a request has
_LABELS = ("model", "version")


class Tally:
    """A histogram being filled: `counts[i]` values lie at or below `bounds[i]` and above the bound before."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values up to it), as Prometheus has them."""
        return list(zip(_names(self.bounds), accumulate(self.counts), strict=True))


@cache
def _names(bounds: tuple[float, ...]) -> list[str]:
    return [*(str(float(bound)) for bound in bounds), "+Inf"]


class ModelMetrics:
    """What is counted of one version of a model.

    Attributes:
        ready: whether it answers.
        file_bytes: of the files it was loaded from.
        queued_rows: asked for the rows that wait, when the metrics are read.
        ok_seconds: that requests took which ended well.
        infer_seconds: that requests spent in runs: a run of 8 requests counts 8 times.
        last_run_ms: when the last run ended, in milliseconds since the epoch; 0 before the first.
        runs: by their rows, how many there were and the seconds they took.
        caches: what is shared between requests, by the boundary at which it is; none where caching is off.
    """

    def __init__(self) -> None:
        self.ready = False
        self.file_bytes = 0
        self.queued_rows: Callable[[], int] = int
        self.outcomes: Counter[Outcome] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.whole = Tally(_SECONDS)
        self.pre = Tally(_SECONDS)
        self.queue = Tally(_SECONDS)
        self.infer = Tally(_SECONDS)
        self.post = Tally(_SECONDS)
        self.batch_rows = Tally(_ROWS)
        self.ok_seconds = 0.0
        self.infer_seconds = 0.0
        self.last_run_ms = 0
        self.runs: dict[int, tuple[int, float]] = {}
        self.caches: dict[str, CacheCounts] = {}

    def answered(self, outcome: Outcome, seconds: float) -> None:
        """A request ended so, `seconds` after it was decoded."""
        self.outcomes[outcome] += 1
        if outcome == "ok":
            self.ok_seconds += seconds
        self.whole.add(seconds)

    def batch_ran(self, *, rows: int, waited: Sequence[float], seconds: float) -> None:
        """A run over `rows` rows took `seconds`; its requests had waited for `waited` seconds each."""
        self.infer.add(seconds)
        self.batch_rows.add(rows)
        self.infer_seconds += seconds * len(waited)
        self.last_run_ms = time_ns() // 1_000_000
        if rows in self.runs or len(self.runs) < _MOST_SIZES:
            count, total = self.runs.get(rows, (0, 0.0))
            self.runs[rows] = count + 1, total + seconds
        for wait in waited:
            self.queue.add(wait)

    def compute(self) -> tuple[float, int]:
        """Seconds of pre-processing and runs so far, a run counted once whatever its rows; and the requests in runs."""
        return self.pre.total + self.infer.total, sum(self.queue.counts)

    def ran(self) -> tuple[float, int]:
        """The same of the runs alone."""
        return self.infer.total, sum(self.queue.counts)


class Metrics(Collector):
    """All metrics of one server.

    Attributes:
        in_flight: requests that have come and are not answered yet.
        loop_lag: seconds that the event loop was late, by samples.
        threads: tells which threads use the processor.
        accelerators: where there are some.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.loop_lag = Tally(_LAG_SECONDS)
        self.threads = ThreadSeconds()
        self.accelerators: Accelerators | None = None
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._refused: Counter[Outcome] = Counter()
        self._past: Counter[Outcome] = Counter()
        self._statuses: Counter[int] = Counter()
        self._codes: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def model(self, name: str, version: str) -> ModelMetrics:
        """The metrics of one version of a model that is loaded."""
        return self._models.setdefault((name, version), ModelMetrics())

    def refused(self, outcome: Outcome) -> None:
        """A request ended so before a model counted it."""
        self._refused[outcome] += 1

    def forget(self, name: str, version: str) -> None:
        """A version was unloaded: its series end, or a server that swaps for a year would have thousands."""
        seen = self._models.pop((name, version))
        seen.queued_rows = int
        self._past.update(seen.outcomes)

    def add(self, collector: Collector) -> None:
        """Show another collector's metrics as well."""
        self._registry.register(collector)

    def responded(self, status: int) -> None:
        """An HTTP response was sent."""
        self._statuses[status] += 1

    def replied(self, code: str) -> None:
        """A gRPC call was answered with this status code."""
        self._codes[code] += 1

    def outcomes(self) -> dict[str, int]:
        """How many inference requests ended how, over all models that there ever were."""
        total: Counter[str] = Counter(self._past)
        for seen in self._models.values():
            total.update(seen.outcomes)
        return dict(+total)

    def render(self, content_type: str = exposition.TEXT) -> bytes:
        """Every metric as text, in the format of `exposition.content_type`."""
        return exposition.write(self.families(), content_type)

    def families(self) -> Iterable[Metric]:
        """Every metric: ours, the process' and the garbage collector's."""
        return self._registry.collect()

    def collect(self) -> Iterator[Metric]:
        """Every metric of our own."""
        yield from self._of_the_models()
        yield _counted("refused", "Requests that ended before a model took them, by how.", "outcome", self._refused)
        yield _counted(
            "http_responses", "HTTP responses by status; 499: its caller went away.", "status", self._statuses
        )
        yield _counted("grpc_responses", "gRPC calls by status code.", "code", self._codes)
        text = "Requests on either wire that are not answered yet."
        yield GaugeMetricFamily("headway_requests_in_flight", text, self.in_flight)
        lag = HistogramMetricFamily(
            "headway_event_loop_lag_seconds", "How late the event loop was, ten times a second."
        )
        lag.add_metric((), self.loop_lag.buckets(), self.loop_lag.total)
        yield lag
        text = "CPU time by what a thread does; process_cpu_seconds less their sum is native threads."
        yield _counted("thread_cpu_seconds", text, "role", self.threads.read())
        if self.accelerators is not None:
            yield from self.accelerators.collect()

    def _of_the_models(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("headway_requests", "Inference requests by how they ended.", labels=_OUTCOME)
        ready = GaugeMetricFamily("headway_model_ready", "1 once its golden samples matched.", labels=_LABELS)
        queued = GaugeMetricFamily("headway_queued_rows", "Rows that wait for a run.", labels=_LABELS)
        text = "Files it was loaded from; in memory it takes about as much, and what its largest run needs."
        size = GaugeMetricFamily("headway_model_file_bytes", text, labels=_LABELS)
        for model, seen in self._models.items():
            for outcome, count in seen.outcomes.items():
                requests.add_metric([*model, outcome], count)
            ready.add_metric(model, seen.ready)
            queued.add_metric(model, seen.queued_rows())
            size.add_metric(model, seen.file_bytes)
        yield from (requests, ready, queued, size)
        yield self._histogram("request_seconds", "From a decoded request to its outputs.", lambda seen: seen.whole)
        yield self._histogram("preprocess_seconds", "Pre-processing of one request.", lambda seen: seen.pre)
        yield self._histogram("queue_seconds", "From acceptance to the start of the run.", lambda seen: seen.queue)
        yield self._histogram("infer_seconds", "One run of the model, whatever its rows.", lambda seen: seen.infer)
        yield self._histogram("postprocess_seconds", "Post-processing of one request.", lambda seen: seen.post)
        yield self._histogram("batch_rows", "Rows of one run.", lambda seen: seen.batch_rows)
        yield from families(
            ((*model, boundary), counts)
            for model, seen in self._models.items()
            for boundary, counts in seen.caches.items()
        )

    def _histogram(self, name: str, text: str, tally: Callable[[ModelMetrics], Tally]) -> Metric:
        family = HistogramMetricFamily(f"headway_{name}", text, labels=_LABELS)
        for model, seen in self._models.items():
            one = tally(seen)
            if one.total or name not in _SELDOM:
                family.add_metric(model, one.buckets(), one.total)
        return family


def _counted(name: str, text: str, label: str, counts: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(f"headway_{name}", text, labels=(label,))
    for value, count in sorted(counts.items()):
        family.add_metric([str(value)], count)
    return family


_OUTCOME = (*_LABELS, "outcome")
_SELDOM = ("preprocess_seconds", "postprocess_seconds")  # most models have neither, and each is 21 lines
