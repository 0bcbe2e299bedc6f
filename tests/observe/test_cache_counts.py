"""The counts of a cache as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from headway.observe.cache_counts import CacheCounts
from headway.observe.metrics import Metrics


def test_every_count_is_shown_with_its_model_and_boundary() -> None:
    metrics = Metrics()
    metrics.model("a", "1").caches["answer"] = CacheCounts(True, 1, 2, 3, 4, 5, 6, 7)
    metrics.model("a", "1").caches["run"] = CacheCounts(False)
    metrics.model("b", "1")
    found = {
        (sample.name, sample.labels["boundary"], sample.labels.get("outcome", "")): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("headway_cache")
    }
    assert {key: value for key, value in found.items() if key[1] == "answer"} == {
        ("headway_cache_requests_total", "answer", "hit"): 1,
        ("headway_cache_requests_total", "answer", "coalesced"): 2,
        ("headway_cache_requests_total", "answer", "miss"): 3,
        ("headway_cache_requests_total", "answer", "passed"): 4,
        ("headway_cache_evictions_total", "answer", ""): 5,
        ("headway_cache_entries", "answer", ""): 6,
        ("headway_cache_bytes", "answer", ""): 7,
        ("headway_cache_on", "answer", ""): 1,
    }
    assert found["headway_cache_on", "run", ""] == 0
