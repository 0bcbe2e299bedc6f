"""The gate passes what is proven, fails what is disproven, and says what it cannot tell."""

from typing import Any

import pytest

from headway.bundles.manifest import Accuracy, Contract, Latency, Scorecard
from headway.core import machine
from headway.measure.accuracy import Pairs
from headway.shipping.gate import decide, findings, rows_needed, shared_confidence


def card(
    *, lost: int = 1, gained: int = 1, speedup: tuple[float, float, float] = (2, 2.1, 2.2), **more: Any
) -> Scorecard:
    both, rows = 950 - lost, 1000
    kept = (both + gained) / 950
    return Scorecard(
        accuracy=Accuracy(
            metric="accuracy",
            value=(both + gained) / rows,
            interval=(0.9, 1.0),
            kept=kept,
            kept_interval=Pairs(both, lost, gained, rows).limits(0.95),
            confidence=0.95,
            rows=rows,
            lost=lost,
            gained=gained,
        ),
        latency_ms=more.get("latency", Latency(p50=1, p90=1.5, p99=2, p99_low=1.8, p99_high=2.4, runs=300)),
        speedup=speedup,
        throughput=1000,
        throughput_batch=32,
        size_mb=more.get("size_mb", 1.0),
        size_ratio=0.25,
        peak_memory_mb=10,
        threads=1,
        reference="eager PyTorch",
        machine=machine.here(),
    )


@pytest.mark.parametrize(
    ("figures", "demands", "outcome", "says"),
    [
        ({}, {}, "pass", "keeps at least 99."),
        ({"lost": 60, "gained": 0}, {}, "fail", "keeps at most 9"),
        ({"lost": 10, "gained": 3}, {}, "insufficient", "test rows would decide it"),
        ({"lost": 16, "gained": 3}, {}, "insufficient", "the estimate itself"),
        ({"speedup": (0.5, 0.6, 0.7)}, {}, "fail", "not faster: 0.60x"),
        ({"speedup": (0.9, 1.0, 1.1)}, {}, "insufficient", "1.00x"),
        ({}, {"p99_ms": 2.5}, "pass", "bound 2.5 ms"),
        ({}, {"p99_ms": 2.0}, "insufficient", "lies between"),
        ({}, {"p99_ms": 0.001}, "fail", "above the bound"),
        (
            {"latency": Latency(p50=1, p90=1, p99=1, p99_low=0.9, p99_high=None, runs=20)},
            {"p99_ms": 2.0},
            "insufficient",
            "inf",
        ),
        ({"size_mb": 5.1}, {"max_size_mb": 5}, "fail", "5.1 MB, bound 5 MB"),
    ],
)
def test_each_demand(figures: dict[str, Any], demands: dict[str, float], outcome: str, says: str) -> None:
    gate = decide(findings(card(**figures), Contract(keep_accuracy=0.99, **demands), changed=True))
    assert gate.outcome == outcome
    assert any(says in reason for reason in gate.reasons), gate.reasons


def test_one_failure_outweighs_what_is_undecided() -> None:
    found = findings(card(lost=10, gained=3, speedup=(0.5, 0.6, 0.7)), Contract(keep_accuracy=0.99), changed=True)
    assert {f.outcome for f in found} == {"insufficient", "fail"}
    assert decide(found).outcome == "fail"


def test_an_unchanged_model_need_not_be_faster_than_itself() -> None:
    slow = card(speedup=(0.5, 0.6, 0.7))
    assert decide(findings(slow, Contract(keep_accuracy=0.99), changed=False)).outcome == "pass"


def test_margins_are_one_at_the_bound() -> None:
    (finding,) = (f for f in findings(card(), Contract(p99_ms=2.0), changed=False))
    assert finding.margin == pytest.approx(1.0)


def test_confidence_is_shared_out() -> None:
    assert shared_confidence(0.95, 3) == pytest.approx(1 - 0.05 / 3)
    assert shared_confidence(0.95, 0) == pytest.approx(0.95)


def test_rows_needed_without_right_and_wrong() -> None:
    seen = card().accuracy.model_copy(
        update={"lost": None, "gained": None, "kept": 0.995, "kept_interval": (0.985, 1.005), "rows": 1000}
    )
    assert rows_needed(seen, 0.99) == pytest.approx(1000 * ((1.645 + 1.2816) * (0.01 / 1.645) / 0.005) ** 2, rel=0.01)
    assert rows_needed(seen, 0.996) is None
