"""The gate: from a scorecard and a contract to pass, fail or not enough evidence, each with its reasons.

A variant passes if every demand is proven, fails if one is disproven, and is undecided otherwise. Because all demands
must hold at once, each may use the whole confidence; because several variants are tried, the caller divides the allowed
error among them (Bonferroni), so that the chance of shipping anything worse than the contract stays below it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf
from statistics import NormalDist

from headway.bundles.manifest import Accuracy, Contract, Gate, Outcome, Scorecard
from headway.measure.accuracy import Pairs


@dataclass(frozen=True)
class Finding:
    """One demand, judged.

    Attributes:
        outcome: of this demand.
        reason: one sentence with the figures.
        margin: how far on the right side, as a ratio; 1 is exactly at the bound.
    """

    outcome: Outcome
    reason: str
    margin: float


def shared_confidence(confidence: float, candidates: int) -> float:
    """The confidence that each of several candidates must meet for `confidence` to hold of all (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, candidates)


def findings(card: Scorecard, contract: Contract, *, changed: bool) -> tuple[Finding, ...]:
    """Judge every demand.

    Args:
        card: what was measured.
        contract: what is demanded.
        changed: whether steps were taken; a model as it was need not be faster than itself.
    """
    return tuple(_judge(card, contract, changed))


def decide(found: tuple[Finding, ...]) -> Gate:
    """Pass if all pass, fail if one fails."""
    outcomes = {finding.outcome for finding in found}
    outcome: Outcome = "fail" if "fail" in outcomes else "insufficient" if "insufficient" in outcomes else "pass"
    return Gate(outcome=outcome, reasons=tuple(finding.reason for finding in found))


def _judge(card: Scorecard, contract: Contract, changed: bool) -> Iterator[Finding]:
    if contract.keep_accuracy is not None:
        yield _accuracy(card.accuracy, contract.keep_accuracy)
    if changed:
        yield _speed(card)
    if contract.p99_ms is not None:
        yield _latency(card, contract.p99_ms)
    if contract.max_size_mb is not None:
        fits = card.size_mb <= contract.max_size_mb
        yield Finding(
            "pass" if fits else "fail",
            f"{card.size_mb:.3g} MB, bound {contract.max_size_mb:g} MB",
            contract.max_size_mb / max(card.size_mb, 1e-9),
        )


def _accuracy(seen: Accuracy, keep: float) -> Finding:
    low, high = seen.kept_interval
    level = f"{100 * seen.confidence:.3g}% confidence"
    counts = "" if seen.lost is None else f"; {seen.lost} rows lost and {seen.gained} gained of {seen.rows}"
    margin = low / keep
    if low >= keep:
        return Finding("pass", f"keeps at least {low:.2%} of {seen.metric} (bound {keep:.4g}, {level}{counts})", margin)
    if high < keep:
        return Finding("fail", f"keeps at most {high:.2%} of {seen.metric} (bound {keep:.4g}, {level}{counts})", margin)
    needed = rows_needed(seen, keep)
    more = (
        f"about {needed:,} test rows would decide it if these rates hold"
        if needed is not None
        else f"the estimate itself, {seen.kept:.2%}, does not keep it"
    )
    reason = (
        f"keeps between {low:.2%} and {high:.2%} of {seen.metric} (bound {keep:.4g}, {level}{counts}): not enough "
        f"evidence; {more}"
    )
    return Finding("insufficient", reason, margin)


def rows_needed(seen: Accuracy, keep: float) -> int | None:
    """Test rows that would prove `keep` with probability 0.9 if what was seen is the truth; None if none would."""
    if seen.lost is not None and seen.gained is not None:
        both = round(seen.value * seen.rows) - seen.gained
        return Pairs(both, seen.lost, seen.gained, seen.rows).rows_needed(keep, seen.confidence)
    z = NormalDist().inv_cdf(seen.confidence)
    error = (seen.kept_interval[1] - seen.kept_interval[0]) / (2 * z)
    if seen.kept <= keep:
        return None
    return ceil(seen.rows * ((z + NormalDist().inv_cdf(0.9)) * error / (seen.kept - keep)) ** 2)


def _speed(card: Scorecard) -> Finding:
    low, middle, high = card.speedup
    text = f"{middle:.2f}x the speed of {card.reference} ({low:.2f} to {high:.2f})"
    if low > 1:
        return Finding("pass", text, low)
    return Finding("fail", f"not faster: {text}", low) if high < 1 else Finding("insufficient", text, low)


def _latency(card: Scorecard, bound: float) -> Finding:
    seen = card.latency_ms
    text = f"99th percentile {seen.p99:.3g} ms"
    margin = bound / seen.p99
    if seen.p99_high is not None and seen.p99_high <= bound:
        return Finding("pass", f"{text}, bound {bound:g} ms", margin)
    if seen.p99_low > bound:
        return Finding("fail", f"{text}, above the bound of {bound:g} ms", margin)
    high = inf if seen.p99_high is None else seen.p99_high
    return Finding(
        "insufficient", f"{text} ({seen.p99_low:.3g} to {high:.3g}): the bound of {bound:g} ms lies between", margin
    )
