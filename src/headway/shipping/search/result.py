"""What a search came to: every trial, the front, who went to the gate, and what more time would be spent on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.shipping.plan import Plan
from headway.shipping.recipe import AutoConfig
from headway.shipping.search.rungs import SHARES, TOP, Trial, dominates
from headway.shipping.search.space import Candidate
from headway.shipping.search.trial import Figures


@dataclass(frozen=True)
class Suggestion:
    """What more time would be spent on, and why."""

    candidate: Candidate
    why: str


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        asked: its settings.
        trials: in the order of beginning.
        front: numbers of those that no other dominates.
        finalists: plan by number of trial.
        ended: why no more was tried.
        further: what it would try next.
    """

    asked: AutoConfig
    trials: tuple[Trial, ...]
    front: frozenset[int]
    finalists: Mapping[int, Plan]
    ended: str
    further: tuple[Suggestion, ...]

    @property
    def seconds(self) -> float:
        """Spent on all trials, in this run or earlier."""
        return sum(trial.seconds for trial in self.trials)

    def why(self, trial: Trial) -> str:
        """What became of a trial, in a few words."""
        figures = trial.figures
        if figures is None:
            return f"failed: {trial.results[trial.rung].failed}"
        if trial.number in self.finalists:
            return f"went to the gate as {self.finalists[trial.number].id}"
        better = [t.number for t in self.trials if t.figures is not None and dominates(t.figures, figures)]
        place = "" if trial.rung == TOP else f"stopped on rung {trial.rung + 1} of {TOP + 1}, "
        return f"{place}no better than trial {better[0]} in anything" if better else f"{place}on the front"

    def summary(self) -> dict[str, Any]:
        """What the bundle's lineage says of the search."""
        return {
            "candidates": len(self.trials),
            "builds": sum(len(trial.results) for trial in self.trials),
            "finalists": {plan.id: number for number, plan in self.finalists.items()},
            "judged_on": "selection",
            "seed": self.asked.seed,
            "minutes": self.asked.minutes,
            "seconds": round(self.seconds, 1),
            "ended": self.ended,
        }

    def document(self) -> dict[str, Any]:
        """As `headway ship --json` prints it under `search`."""
        return {
            **self.summary(),
            "trials": [self.row(trial) for trial in self.trials],
            "next": [{"steps": s.candidate.document(), "why": s.why} for s in self.further],
        }

    def row(self, trial: Trial) -> dict[str, Any]:
        """One trial as plain JSON."""
        figures = trial.figures
        return {
            "number": trial.number,
            "steps": trial.built.document(),
            "rung": trial.rung + 1,
            "effort": SHARES[trial.rung],
            "seconds": trial.seconds,
            "front": trial.number in self.front,
            "why": self.why(trial),
            **(_measured(figures) if figures is not None else {}),
        }


def in_words(figures: Figures) -> str:
    """What was measured of a candidate, on one line."""
    return (
        f"keeps {figures.accuracy.kept:.2%}, {figures.speedup[1]:.2f}x the speed, {figures.size_ratio:.0%} of the size"
    )


def _measured(figures: Figures) -> dict[str, Any]:
    return {
        "accuracy": figures.accuracy.value,
        "kept": figures.accuracy.kept,
        "kept_ci": list(figures.accuracy.kept_interval),
        "speedup": list(figures.speedup),
        "p99_ms": figures.p99_ms,
        "size_mb": figures.size_mb,
        "size_ratio": figures.size_ratio,
        "precision": figures.precision,
        "runtime": figures.runtime,
    }
