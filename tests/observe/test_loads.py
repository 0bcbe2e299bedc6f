"""Metrics of loads at run time, and of models that are gone."""

from prometheus_client.parser import text_string_to_metric_families

from headway.observe.loads import Loads
from headway.observe.metrics import Metrics


def test_loads_are_counted_by_model_and_result() -> None:
    metrics, loads = Metrics(), Loads(lambda: {"digits": 2})
    metrics.add(loads)
    loads.loaded("digits", 0.3)
    loads.loaded("digits", 3)
    loads.failed("digits")
    text = metrics.render().decode()
    assert 'headway_loads_total{model="digits",result="ok"} 2.0' in text
    assert 'headway_loads_total{model="digits",result="failed"} 1.0' in text
    assert 'headway_load_seconds_bucket{le="0.5",model="digits"} 1.0' in text
    assert 'headway_load_seconds_sum{model="digits"} 3.3' in text
    assert 'headway_versions_served{model="digits"} 2.0' in text
    assert list(text_string_to_metric_families(text))


def test_the_series_of_a_version_that_is_gone_end_and_its_requests_stay_counted() -> None:
    metrics = Metrics()
    for version in range(1000):
        seen = metrics.model("digits", str(version))
        seen.answered("ok", 0.1)
        metrics.forget("digits", str(version))
    assert "digits" not in metrics.render().decode()
    assert metrics.outcomes() == {"ok": 1000}
