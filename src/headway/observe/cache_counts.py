"""What is counted of a cache, and its Prometheus metrics."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_LABELS = ("model", "version", "boundary")


@dataclass(slots=True)
class CacheCounts:
    """What is counted of one model's answers at one boundary. Touched by the event loop's thread alone.

    Attributes:
        on: whether answers are looked up; off, a few requests are sampled and the rest pass by.
        hits: requests answered from memory.
        coalesced: requests that joined a run for the same inputs.
        misses: requests that began a run.
        passed: requests that were not looked up.
        evictions: answers that made room for others.
        entries: answers in memory.
        bytes: that they take.
        hit_seconds: spent on looking up what was there or under way.
        miss_seconds: spent on looking up what was not there, and on keeping it.
    """

    on: bool = True
    hits: int = 0
    coalesced: int = 0
    misses: int = 0
    passed: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0
    hit_seconds: float = 0.0
    miss_seconds: float = 0.0


def families(caches: Iterable[tuple[tuple[str, str, str], CacheCounts]]) -> Iterator[Metric]:
    """The metrics of every (model, version, boundary)."""
    requests = CounterMetricFamily(
        "headway_cache_requests", "Requests by what the cache did for them.", labels=(*_LABELS, "outcome")
    )
    evictions = CounterMetricFamily("headway_cache_evictions", "Answers that made room for others.", labels=_LABELS)
    on = GaugeMetricFamily(
        "headway_cache_on", "0 while it has switched itself off, for it does not pay.", labels=_LABELS
    )
    entries = GaugeMetricFamily("headway_cache_entries", "Answers in memory.", labels=_LABELS)
    size = GaugeMetricFamily("headway_cache_bytes", "Memory that they take.", labels=_LABELS)
    for labels, seen in caches:
        outcomes = {"hit": seen.hits, "coalesced": seen.coalesced, "miss": seen.misses, "passed": seen.passed}
        for outcome, count in outcomes.items():
            requests.add_metric([*labels, outcome], count)
        evictions.add_metric(labels, seen.evictions)
        on.add_metric(labels, seen.on)
        entries.add_metric(labels, seen.entries)
        size.add_metric(labels, seen.bytes)
    yield from (requests, evictions, on, entries, size)
