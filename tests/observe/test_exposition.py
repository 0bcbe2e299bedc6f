"""The text of the metrics says what Prometheus' own client would say, in both formats."""

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from headway.observe.exposition import OPEN_METRICS, TEXT, content_type, write
from headway.observe.metrics import Metrics

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\n\\"'), max_size=8)
NUMBERS = st.floats() | st.integers(-10, 10**15) | st.booleans()


def filled(models: int) -> Metrics:
    metrics = Metrics()
    for number in range(models):
        model = metrics.model(f"model{number}", "1")
        model.ready = True
        model.answered("ok", 0.003)
        model.batch_ran(rows=5, waited=[0.001, 0.2], seconds=0.004)
        model.pre.add(0.001)
    metrics.responded(200)
    metrics.replied("OK")
    metrics.refused("not_found")
    return metrics


def families(values: dict[str, float]) -> list[Metric]:
    counter = CounterMetricFamily("asked", "Counted.", labels=("who",))
    gauge = GaugeMetricFamily("level", "Now.", labels=("who", "again"))
    for text, value in values.items():
        counter.add_metric([text], abs(float(value)))
        gauge.add_metric([text, "x"], value)
    histogram = HistogramMetricFamily("took", "Seconds.", buckets=[("0.5", 1), ("+Inf", 3)], sum_value=2.5)
    return [counter, gauge, histogram]


@given(st.dictionaries(TEXTS, NUMBERS.filter(lambda value: value == value), max_size=4))
def test_it_is_read_as_what_was_meant(values: dict[str, float]) -> None:
    found = [sample for one in parse_text(write(families(values)).decode()) for sample in one.samples]
    meant = [sample for one in families(values) for sample in one.samples]
    assert sorted((one.name, sorted(one.labels.items()), one.value) for one in found) == sorted(
        (one.name, sorted(one.labels.items()), float(one.value)) for one in meant
    )


def test_all_of_ours_is_read_as_if_prometheus_client_had_written_it() -> None:
    class Fixed(CollectorRegistry):
        def collect(self) -> list[Metric]:  # the process' own numbers move between two readings
            return collected

    collected = list(filled(2).families())
    ours, theirs = write(collected).decode(), generate_latest(Fixed()).decode()
    assert list(parse_text(ours)) == list(parse_text(theirs))
    ours, theirs = write(collected, OPEN_METRICS).decode(), generate_openmetrics(Fixed()).decode()
    assert list(parse_openmetrics(ours)) == list(parse_openmetrics(theirs))
    assert ours.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html, */*;q=0.8", TEXT),
        ("application/json", TEXT),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPEN_METRICS),
        ("text/plain;q=0.5, Application/OpenMetrics-Text; version=1.0.0", OPEN_METRICS),
        (";,;," * 1000, TEXT),
    ],
)
def test_what_a_scraper_prefers(accept: str, kind: str) -> None:
    assert content_type(accept) == kind


def test_a_scrape_costs_less_than_with_prometheus_client() -> None:
    """The bound of 5 ms is the benchmark's affair; a shared machine holds a ratio alone."""
    metrics = filled(10)
    ours = min(timeit.repeat(lambda: metrics.render(), number=1, repeat=9))
    theirs = min(timeit.repeat(lambda: generate_latest(metrics._registry), number=1, repeat=9))
    assert ours < theirs
