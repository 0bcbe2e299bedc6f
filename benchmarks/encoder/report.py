"""What a run found, as Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from benchmarks.encoder.callers import Turn
from benchmarks.encoder.mixed import WAITING, Mixed
from benchmarks.results import machine, taken

from headway.measure.order import median_interval

CONFIDENCE = 0.95
OURS, EVEN = "neighbours in length", "even"
_QUIET = 0.97
_GOAL = 0.9  # of the bare session at its best batch size, where a row costs 2 ms or more


class Pace(NamedTuple):
    """Rows a second, and rows a second of CPU time."""

    rate: float
    cpu_rate: float


@dataclass
class Found:
    """All that was measured.

    Attributes:
        lengths: tokens of each text of the corpus.
        even_tokens: of each text, where they are of one length.
        turns: by server, or `EVEN` for ours with texts of one length, and callers; one a round.
        bare: the session alone with rows of that length, by batch size; one a round.
        mixed: what queues of mixed lengths cost the session alone.
    """

    lengths: list[int]
    even_tokens: int
    turns: dict[tuple[str, int], list[Turn]] = field(default_factory=dict)
    bare: list[dict[int, Pace]] = field(default_factory=list)
    mixed: dict[str, Mixed] = field(default_factory=dict)

    def gains(self, title: str, callers: int, of: Callable[[Turn | Pace], float]) -> list[float]:
        """Ours as a multiple of another, one a round."""
        pairs = zip(self.turns[OURS, callers], self.turns[title, callers], strict=True)
        return [of(ours) / of(theirs) for ours, theirs in pairs]

    def best_batch(self) -> int:
        """The batch size at which the bare session does most rows a second of CPU time."""
        return max(self.bare[0], key=lambda size: float(np.median([one[size].cpu_rate for one in self.bare])))

    def of_bare(self, callers: int, of: Callable[[Turn | Pace], float]) -> list[float]:
        """What the server does with texts of one length, as a part of the bare session's best; one a round."""
        best = self.best_batch()
        return [of(turn) / of(one[best]) for turn, one in zip(self.turns[EVEN, callers], self.bare, strict=True)]

    def core(self) -> float:
        """Share of the time that the bare session wanted to run in which its core let it."""
        return float(np.mean([pace.rate / pace.cpu_rate for one in self.bare for pace in one.values()]))


def by_clock(one: Turn | Pace) -> float:
    """Rows a second."""
    return one.rate


def by_cpu(one: Turn | Pace) -> float:
    """Rows a second of CPU time."""
    return one.cpu_rate


def section(found: Found, texts: int, rounds: int) -> str:
    """The section of RESULTS.md, from so many texts a turn, and rounds."""
    lengths = np.percentile(found.lengths, [5, 50, 95, 99])
    tokens = ", ".join(f"{value:.0f}" for value in lengths[:-1])
    parts = [
        "## Texts of mixed lengths on the MiniLM encoder",
        f"{taken()} with `python -m benchmarks.encoder --texts {texts} --rounds {rounds}`.\n"
        f"{machine()}; a server on one, the load on the other; one thread a run.\n{_quiet(found)}",
        f"{len(found.lengths):,} film reviews and plots; tokens of a text at 5%, 50%, 95% and 99%: {tokens} and"
        f" {lengths[-1]:.0f}, cut at 256.\n"
        "Callers send the text itself and ask again once they have its vector. Servers take turns at the same texts;\n"
        f"the gain is of turns of one round, median and {CONFIDENCE:.0%} limits, each one-sided. Every server's\n"
        "answers were checked before it was timed.",
        _served(found),
        _alone(found),
        _reach(found),
    ]
    return "\n\n".join(parts)


def _quiet(found: Found) -> str:
    had = found.core()
    text = f"the session alone had its core for {had:.0%} of its time"
    if had >= _QUIET:
        return f"The machine was quiet: {text}."
    return f"**The machine was busy**: {text}. Ratios of CPU time hold all the same, latencies do not."


def _served(found: Found) -> str:
    rows = []
    for title, callers in (key for key in found.turns if key[0] != EVEN):
        turns = found.turns[title, callers]
        counts = [turn.counts for turn in turns]
        gains = [_limits(found.gains(title, callers, of)) for of in (by_clock, by_cpu)]
        p50, p99 = np.percentile([latency for turn in turns for latency in turn.latencies], [50, 99]) * 1e3
        rows.append(
            [
                f"**{title}**" if title == OURS else title,
                str(callers),
                f"{np.median([turn.rate for turn in turns]):.0f}",
                *(["1", "1"] if title == OURS else gains),
                f"{p50:,.0f} / {p99:,.0f}",
                f"{np.median([one.rows / one.runs for one in counts]):.1f}",
                f"{np.median([one.run_tokens / one.real_tokens for one in counts]):.2f}",
            ]
        )
    head = ["what shares a run", "callers", "texts/s", "gain of neighbours", "the same by CPU time", "p50 / p99 ms"]
    return _table([*head, "texts a run", "tokens run / real"], rows)


def _alone(found: Found) -> str:
    rows = [
        [
            f"**{title}**" if title == OURS else title,
            f"{np.median(one.runs):.0f}",
            f"{np.median(one.padded):.2f}",
            _limits(one.cost),
        ]
        for title, one in found.mixed.items()
    ]
    told = (
        f"The session alone, with {WAITING} texts at a time drawn from the corpus. The cost is a multiple of what as\n"
        "many tokens take in one run of rows of one length: of what the texts' own tokens cost.\n\n"
    )
    return told + _table(["what shares a run", "runs", "tokens run / real", "cost"], rows)


def _reach(found: Found) -> str:
    best = found.best_batch()
    rate = float(np.median([one[best].cpu_rate for one in found.bare]))
    levels = [callers for title, callers in found.turns if title == EVEN]
    parts = [
        f"{_limits(found.of_bare(callers, by_clock))} of it with {callers} callers,"
        f" {_limits(found.of_bare(callers, by_cpu))} by CPU time"
        for callers in levels
    ]
    least = min(float(np.median(found.of_bare(callers, by_clock))) for callers in levels)
    verdict = "reached" if least >= _GOAL else "**not reached**"
    return (
        f"Texts of {found.even_tokens} tokens each: the session alone takes {1000 / rate:.1f} ms of CPU time a row at"
        f" its best batch size, {best}.\nThe server, which also tokenizes, does {'; '.join(parts)}.\n"
        f"At least {_GOAL} is the goal where a row costs 2 ms or more: {verdict}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _limits(values: Sequence[float]) -> str:
    low, middle, high = median_interval(np.asarray(values), CONFIDENCE)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
