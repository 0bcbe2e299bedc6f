"""What a ship comes to: every variant judged, one chosen or none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headway.bundles.manifest import Gate, Scorecard
from headway.core import machine
from headway.shipping import gate
from headway.shipping.build import Built
from headway.shipping.evaluate import Evaluation
from headway.shipping.search.result import SearchResult
from headway.shipping.slower import Slower

Verdict = Literal["shipped", "refused", "insufficient"]


@dataclass(frozen=True)
class Judged:
    """A variant with its figures and the gate's findings."""

    built: Built
    runtime: str
    card: Scorecard
    findings: tuple[gate.Finding, ...]

    @property
    def gate(self) -> Gate:
        """What the findings come to."""
        return gate.decide(self.findings)

    @property
    def margin(self) -> float:
        """The tightest demand's margin: how near a refused variant came."""
        return min((finding.margin for finding in self.findings), default=1.0)


@dataclass(frozen=True)
class ShipResult:
    """What came of it.

    Attributes:
        verdict: "shipped", or why not.
        bundle: the sealed folder; None unless shipped.
        version: in the registry; None unless shipped.
        chosen: id of the variant that serves; None unless shipped.
        nearest: id of the variant that is chosen or came nearest.
        report: the HTML file.
        judged: every variant by id.
        evaluation: the figures.
        slower: why those variants that are not faster than what they were made from are not, by id.
        search: how the steps were found; None where the recipe names them.
    """

    verdict: Verdict
    bundle: Path | None
    version: str | None
    chosen: str | None
    nearest: str
    report: Path
    judged: Mapping[str, Judged]
    evaluation: Evaluation
    slower: Mapping[str, Slower] = field(default_factory=dict)
    search: SearchResult | None = None

    def document(self) -> dict[str, Any]:
        """The document that `headway ship --json` prints."""
        reference = self.evaluation.reference
        return {
            "verdict": self.verdict,
            "bundle": str(self.bundle) if self.bundle else None,
            "version": self.version,
            "chosen": self.chosen,
            "nearest": self.nearest,
            "report": str(self.report),
            "reference": reference.model_dump(mode="json"),
            "variants": [{**_document(id_, judged), **self._because(id_)} for id_, judged in self.judged.items()],
            "search": self.search.document() if self.search is not None else None,
            "machine": machine.here().model_dump(mode="json"),
        }

    def _because(self, id_: str) -> dict[str, Any]:
        return {"slower_because": self.slower[id_].document()} if id_ in self.slower else {}


def best(passed: Mapping[str, Judged]) -> str:
    """The fastest; among those that are not clearly slower, the smallest."""
    fastest = max(passed.values(), key=lambda j: j.card.speedup[1])
    level = [id_ for id_, j in passed.items() if j.card.speedup[2] >= fastest.card.speedup[0]]
    return min(level, key=lambda id_: (passed[id_].card.size_mb, -passed[id_].card.speedup[1]))


def _document(id_: str, judged: Judged) -> dict[str, Any]:
    card = judged.card
    return {
        "id": id_,
        "runtime": judged.runtime,
        "precision": judged.built.precision,
        "accuracy": card.accuracy.value,
        "accuracy_ci": list(card.accuracy.interval),
        "kept_ci": list(card.accuracy.kept_interval),
        "latency_ms": card.latency_ms.model_dump(mode="json"),
        "speedup": list(card.speedup),
        "throughput": card.throughput,
        "size_mb": card.size_mb,
        "size_ratio": card.size_ratio,
        "peak_memory_mb": card.peak_memory_mb,
        "gate": judged.gate.outcome,
        "why": "; ".join(judged.gate.reasons),
    }
