"""Metrics: what Prometheus reads is what was counted."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from headway.observe.metrics import Metrics, Tally


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(sample.name, frozenset(sample.labels.items())): sample.value for one in families for sample in one.samples}


def test_what_is_counted_is_what_is_read() -> None:
    metrics = Metrics()
    model = metrics.model("digits", "3")
    model.ready = True
    model.queued_rows = lambda: 7
    model.answered("ok", 0.003)
    model.answered("full", 0.0001)
    model.batch_ran(rows=5, waited=[0.001, 0.2], seconds=0.004)
    metrics.responded(200)
    metrics.responded(503)
    metrics.responded(200)
    labels = frozenset({("model", "digits"), ("version", "3")})
    found = read(metrics)
    assert found["headway_requests_total", labels | {("outcome", "ok")}] == 1
    assert found["headway_requests_total", labels | {("outcome", "full")}] == 1
    assert found["headway_requests_total", labels | {("outcome", "late")}] == 0
    assert found["headway_model_ready", labels] == 1
    assert found["headway_queued_rows", labels] == 7
    assert found["headway_request_seconds_count", labels] == 2
    assert found["headway_queue_seconds_count", labels] == 2
    assert found["headway_queue_seconds_bucket", labels | {("le", "0.001")}] == 1
    assert found["headway_batch_rows_sum", labels] == 5
    assert found["headway_batch_rows_bucket", labels | {("le", "4.0")}] == 0
    assert found["headway_batch_rows_bucket", labels | {("le", "8.0")}] == 1
    assert found["headway_http_responses_total", frozenset({("status", "200")})] == 2


def test_two_servers_in_a_process_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.model("digits", "1").answered("ok", 0.1)
    labels = frozenset({("model", "digits"), ("version", "1")})
    assert ("headway_request_seconds_count", labels) not in read(other)


def test_a_model_that_is_loaded_again_goes_on_counting() -> None:
    metrics = Metrics()
    assert metrics.model("digits", "1") is metrics.model("digits", "1")


@given(st.lists(st.floats(0, 10)))
def test_every_value_is_in_the_buckets_at_and_above_it(values: list[float]) -> None:
    tally = Tally((0.5, 1, 2, 5))
    for value in values:
        tally.add(value)
    assert tally.buckets() == [
        *((str(float(bound)), sum(value <= bound for value in values)) for bound in tally.bounds),
        ("+Inf", len(values)),
    ]
