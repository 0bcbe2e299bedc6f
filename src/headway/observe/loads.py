"""Metrics of models that come and go while a server runs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.observe.metrics import Tally

_SECONDS = (0.2, 0.5, 1, 2, 5, 10, 20, 60, 300)


class Loads(Collector):
    """Loads at run time, by model and result. Touched by the event loop's thread alone.

    Args:
        served: asked for the number of versions served, by model, when the metrics are read.
    """

    def __init__(self, served: Callable[[], Mapping[str, int]]) -> None:
        self._served = served
        self._results: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, Tally] = {}

    def loaded(self, model: str, seconds: float) -> None:
        """New versions of a model answer, `seconds` after that was asked for."""
        self._results[model, "ok"] += 1
        self._seconds.setdefault(model, Tally(_SECONDS)).add(seconds)

    def failed(self, model: str) -> None:
        """A load failed, and what was served before still is."""
        self._results[model, "failed"] += 1

    def collect(self) -> Iterator[Metric]:
        """Every metric, for Prometheus' client."""
        results = CounterMetricFamily("headway_loads", "Loads at run time by result.", labels=("model", "result"))
        for labels, count in sorted(self._results.items()):
            results.add_metric(labels, count)
        yield results
        seconds = HistogramMetricFamily("headway_load_seconds", "One load, to the move of traffic.", labels=("model",))
        for model, tally in self._seconds.items():
            seconds.add_metric([model], tally.buckets(), tally.total)
        yield seconds
        versions = GaugeMetricFamily("headway_versions_served", "Versions of a model that answer.", labels=("model",))
        for model, count in self._served().items():
            versions.add_metric([model], count)
        yield versions
