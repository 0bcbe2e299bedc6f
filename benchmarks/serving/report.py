"""What a run found, as Markdown: tables, and each goal with whether it was reached."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from benchmarks.results import machine, taken
from benchmarks.serving.load import Load
from benchmarks.serving.servers import SERVERS

from headway.measure.order import median_interval

CONFIDENCE = 0.95
DIGITS_RATE = 3000
_OURS = "headway"


class Level(NamedTuple):
    """A level of load: callers that wait for their answers, or requests that arrive at random, so many a second."""

    callers: int = 0
    rate: int = 0

    def __str__(self) -> str:
        if self.rate:
            return f"{self.rate:,} arrivals/s"
        return f"{self.callers} caller{'s' * (self.callers > 1)}"


@dataclass
class Found:
    """All that was measured.

    Attributes:
        rounds: of every measurement.
        seconds: of each.
        loads: by server and level, one a round.
        bare_session: rows a second of the large CNN by batch size, one a round.
        left_out: servers that could not be measured, and why.
    """

    rounds: int
    seconds: float
    loads: dict[tuple[str, Level], list[Load]] = field(default_factory=dict)
    bare_session: list[dict[int, float]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def of(self, name: str, level: Level) -> list[Load]:
        """What was measured of a server at a level, one a round; none where it was not."""
        return self.loads.get((name, level), [])

    def levels(self) -> list[Level]:
        """Those of the comparison, in the order they were taken."""
        return [level for name, level in self.loads if name == _OURS]

    def ratios(self, name: str, level: Level, of: Callable[[Load], float | None] = lambda one: one.rate) -> list[float]:
        """Headway's figure as a multiple of another's, round by round."""
        pairs = zip(self.of(_OURS, level), self.of(name, level), strict=False)
        both = [(of(ours), of(theirs)) for ours, theirs in pairs]
        return [ours / theirs for ours, theirs in both if ours is not None and theirs]

    def own_us(self, level: Level) -> list[float]:
        """Headway's own CPU microseconds a request, round by round: its process's without the model's runs."""
        return [(one.cpu_s - one.run_s) / one.requests * 1e6 for one in self.of(_OURS, level)]

    def best_batch(self) -> int:
        """The batch size at which the bare session does most rows a second."""
        return max(self.bare_session[0], key=lambda size: float(np.median([one[size] for one in self.bare_session])))

    def of_bare_session(self, level: Level) -> list[float]:
        """Headway's throughput over the wire as a part of the bare session's, round by round."""
        best = self.best_batch()
        pairs = zip(self.of("large", level), self.bare_session, strict=True)
        return [one.rate / rates[best] for one, rates in pairs]


def report(found: Found) -> str:
    """The section of RESULTS.md."""
    parts = [
        "## `make bench-serve`: Headway beside other servers",
        f"{taken()}. {machine()}.\n"
        "Every server has one core, wrk or `poisson.py` the other; one ONNX file, one thread of ONNX Runtime, one row\n"
        f"a request. {found.rounds} rounds of {found.seconds:g} s a measurement, after a second of warming up;\n"
        "servers take turns, with the others stopped. Every answer was checked against ONNX Runtime's own before\n"
        "anything was timed.\n"
        f"Figures are medians over the rounds; in brackets their {CONFIDENCE:.0%} limits, each one-sided.",
        _goals(found),
        _closed(found),
        _ratios(found),
        _open(found),
        _own(found),
        _servers(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _with_limits(values: Sequence[float], form: str = "{:.2f}") -> str:
    if not values:
        return ""
    low, middle, high = median_interval(np.asarray(values), CONFIDENCE)
    return f"{form.format(middle)} ({form.format(low)}-{form.format(high)})"


def _middle(values: Iterable[float | None]) -> str:
    """A median in which None is later than everything."""
    middle = float(np.median([np.inf if value is None else value for value in values]))
    return f"{middle:.1f}" if np.isfinite(middle) else "never"


def _measured(found: Found) -> list[str]:
    return [name for name in SERVERS if any(one == name for one, _ in found.loads)]


def _cell(loads: Sequence[Load], *, rate: bool) -> str:
    if not loads:
        return ""
    errors = sum(one.errors for one in loads)
    text = f"{_middle(one.p50_ms for one in loads)} / {_middle(one.p99_ms for one in loads)}"
    if rate:
        text = f"{np.median([one.rate for one in loads]):,.0f} · {text}"
    return text + (f" · {errors} errors" if errors else "")


def _closed(found: Found) -> str:
    levels = [level for level in found.levels() if level.callers]
    rows = [
        [SERVERS[name].title, *(_cell(found.of(name, level), rate=True) for level in levels)]
        for name in _measured(found)
    ]
    return "Requests/s · p50 / p99 ms, callers that wait for their answers (wrk):\n\n" + _table(
        ["server", *map(str, levels)], rows
    )


def _ratios(found: Found) -> str:
    levels = [level for level in found.levels() if level.callers]
    rows = [
        [SERVERS[name].title, *(_with_limits(found.ratios(name, level)) for level in levels)]
        for name in _measured(found)
        if name != _OURS
    ]
    if not rows:
        return ""
    return "Headway's requests/s as a multiple of each server's:\n\n" + _table(["server", *map(str, levels)], rows)


def _open(found: Found) -> str:
    levels = [level for level in found.levels() if level.rate]
    rows = []
    for name in _measured(found):
        cells = [_cell(found.of(name, level), rate=False) or "not tried" for level in levels]
        rows.append([SERVERS[name].title, *cells])
    late = max((one.late_ms for level in levels for one in found.of(_OURS, level)), default=0.0)
    if not levels:
        return ""
    return (
        "p50 / p99 ms where requests arrive at random (Poisson), counted from the intended time of arrival; an error\n"
        "is a request without an answer a second after the last arrival. A server is not tried at a rate that it does\n"
        f"not exceed by a tenth with 32 callers. The generator itself was at most {late:.2f} ms late (p99):\n\n"
        + _table(["server", *map(str, levels)], rows)
    )


def _own(found: Found) -> str:
    levels = [level for level in found.levels() if level.callers]
    rows = [["Headway", *(_with_limits(found.own_us(level), "{:.0f}") for level in levels)]]
    return (
        "Own CPU microseconds a request, binary REST: the CPU time of all threads of the server (Linux' schedstat)\n"
        "less what the run thread's own clock counts inside `session.run`, by the requests answered:\n\n"
        + _table(["", *map(str, levels)], rows)
    )


def _servers(found: Found) -> str:
    lines = ["The servers:"]
    for name, peer in SERVERS.items():
        if name in found.left_out:
            lines.append(f"- {peer.title}: **left out**: {found.left_out[name]}")
        elif name in _measured(found):
            lines.append(f"- {peer.title}: {peer.about}.")
    return "\n".join(lines)


# The goals


def _goals(found: Found) -> str:
    rows: list[list[str]] = []

    def goal(text: str, least: float, values: Sequence[float], form: str = "{:.2f}x") -> None:
        rows.append([text, _with_limits(values, form), _verdict(values, least)])

    def at_most(text: str, most: float, values: Sequence[float], form: str) -> None:
        rows.append([text, _with_limits(values, form), _verdict([-v for v in values], -most)])

    closed = {level.callers: level for level in found.levels() if level.callers}
    for callers, least in ((1, 1.0), (8, 1.1), (32, 1.3), (128, 1.1)):
        level = closed[callers]
        goal(f"Triton's throughput, {level}: at least {least}x", least, found.ratios("triton", level))
        p99 = found.ratios("triton", level, lambda one: one.p99_ms)
        at_most(f"Triton's p99, {level}: below 1x", 1.0, p99, "{:.2f}x")
    for name, least in (("fastapi", 2), ("litserve", 10), ("bentoml", 10)):
        for level in closed.values():
            title = SERVERS[name].title
            goal(f"{title}'s throughput, {level}: at least {least}x", least, found.ratios(name, level))
    for level in closed.values():
        goal(f"the bare server's throughput, {level}: at least 0.9x", 0.9, found.ratios("bare", level))
    for level in closed.values():
        at_most(f"own CPU a request, {level}: below 250 us", 250, found.own_us(level), "{:.0f} us")
    digits = found.of("digits", Level(rate=DIGITS_RATE))
    p99s = [np.inf if one.errors or one.p99_ms is None else one.p99_ms for one in digits]
    at_most(f"digits, {DIGITS_RATE:,} arrivals/s: p99 below 50 ms, no errors", 50, p99s, "{:.1f} ms")
    for name, level in found.loads:
        if name == "large":
            per_row = 1e3 / max(rate for rate in found.bare_session[0].values())
            text = f"{per_row:.1f} ms a row, {level}: at least 90% of the bare session (batch {found.best_batch()})"
            goal(text, 0.9, found.of_bare_session(level), "{:.1%}")
    return _table(["goal", "found", "reached"], rows)


def _verdict(values: Sequence[float], least: float) -> str:
    """Whether the median is at least that, and whether its lower limit is too."""
    if not values:
        return "not measured"
    low, middle, _ = median_interval(np.asarray(values), CONFIDENCE)
    if middle < least:
        return "**no**"
    return "yes" if low >= least else "yes, but for the limit"
