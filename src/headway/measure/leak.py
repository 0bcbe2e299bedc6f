"""Whether something that is done again and again takes memory for good, and what takes it.

It is done twice over. First only the process's resident memory is looked at, and nothing is there that would add to it.
The second time `tracemalloc`, which takes memory itself, names the lines of Python whose allocations grow. What grows
beyond them was taken by native code. Before each sample, garbage is collected and the C library gives back what it
keeps of freed memory, so that neither is mistaken for a leak.
"""

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, hypot, log10
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from headway.core.cgroup import read
from headway.core.errors import UsageError
from headway.core.heap import trim
from headway.core.progress import SILENT, Progress
from headway.measure.growth import BLOCKS, WARM_UP, Growth, growth
from headway.measure.memory import resident

LEAST_ROUNDS = 4 * BLOCKS
BOUND = 1024  # bytes a round
_FRAMES = 4  # callers of a line that are told
_SHOWN = 5
_SHARE = 0.02  # of all growth: a line with less is not told
_CANDIDATES = 50
_ROUNDING = 0.5  # allocators round up: so much more than Python asked for is no leak of somebody else's
T = TypeVar("T")
Verdict = Literal["grows", "flat", "insufficient"]


class Line(NamedTuple):
    """A line of Python whose allocations grow.

    Attributes:
        where: `file:line`.
        callers: the lines that called it, the nearest first.
        growth: bytes a round.
    """

    where: str
    callers: tuple[str, ...]
    growth: Growth


@dataclass(frozen=True)
class Leak:
    """What was found.

    Attributes:
        rounds: of each of the two passes, warming up included.
        bound: bytes a round that do not matter.
        resident: the process's memory, bytes a round.
        python: what Python's allocations hold, likewise.
        lines: those that grow and matter, the fastest first.
    """

    rounds: int
    bound: float
    resident: Growth
    python: Growth
    lines: tuple[Line, ...]

    @property
    def native(self) -> tuple[float, float, float]:
        """Low, slope and high of what grows beyond Python's allocations, bytes a round."""
        slope = self.resident.slope - self.python.slope
        error = hypot(self.resident.high - self.resident.slope, self.python.high - self.python.slope)
        return slope - error, slope, slope + error

    @property
    def native_grows(self) -> bool:
        """Whether native code takes memory for good."""
        low, slope, _ = self.native
        return self.resident.steady and low > 0 and slope > _ROUNDING * max(0.0, self.python.slope)

    @property
    def verdict(self) -> Verdict:
        """What resident memory does: `grows` where that is steady; `flat` where it cannot be more than the bound.

        Python's allocations alone prove no leak: at first they seem to grow, as what was allocated before the tracing
        began is replaced by what is traced. Where they grow by more than the bound, that calls for more rounds.
        """
        if self.resident.steady:
            return "grows"
        doubtful = self.python.steady and self.python.low > self.bound
        return "insufficient" if doubtful or self.resident.high > self.bound else "flat"

    @property
    def more_rounds(self) -> int:
        """Rounds that should tell, where these do not: the limits close in as the rounds grow in number."""
        wide = self.resident.high - self.resident.slope
        wanted = self.rounds * max(2.0, 2 * wide / self.bound)
        unit = 10.0 ** max(0, int(log10(wanted)) - 1)
        return int(ceil(wanted / unit) * unit)

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        low, slope, high = self.native
        return {
            "verdict": self.verdict,
            "rounds": self.rounds,
            "more_rounds": self.more_rounds if self.verdict == "insufficient" else None,
            "bound": self.bound,
            "resident": self.resident._asdict(),
            "python": self.python._asdict(),
            "native": {"slope": slope, "low": low, "high": high, "grows": self.native_grows},
            "lines": [
                {"where": line.where, "callers": list(line.callers), **line.growth._asdict()} for line in self.lines
            ],
        }


def watch(
    work: Callable[[], object],
    *,
    rounds: int = 1000,
    bound: float = BOUND,
    progress: Progress = SILENT,
    title: str = "watch memory",
) -> Leak:
    """Do `work` for so many rounds, twice, and see whether memory grows.

    Nothing else should run in this process meanwhile: its memory counts as well.

    Args:
        work: one round. What it returns is dropped.
        rounds: of each pass, a quarter of them for warming up.
        bound: bytes a round below which growth does not matter.
        progress: told of each round.
        title: of the work.

    Raises:
        UsageError: fewer rounds than could tell anything.
    """
    if rounds < LEAST_ROUNDS:
        raise UsageError(f"{rounds} rounds cannot tell growth from noise", remedy=f"Make at least {LEAST_ROUNDS}.")
    tracing, frozen = tracemalloc.is_tracing(), gc.get_freeze_count() > 0  # by whoever called
    gc.collect()
    gc.freeze()  # what was there before cannot leak, and searching all of it after each block would take seconds
    try:
        at, held = _blocks(work, rounds, _resident, progress, title)
        if not tracing:
            tracemalloc.start(_FRAMES)
        _, snapshots = _blocks(work, rounds, _traced, progress, f"{title}: by line")
    finally:
        if not frozen:
            gc.unfreeze()
        if not tracing:
            tracemalloc.stop()
    python = growth(at, [sum(sizes.values()) for sizes in snapshots], warm_up=0)
    whole = growth(at, held, warm_up=0)
    least = _SHARE * max(whole.slope, python.slope)
    lines = tuple(line for line in _lines(at, snapshots) if line.growth.slope >= least)
    return Leak(rounds, bound, whole, python, lines)


def _blocks(
    work: Callable[[], object], rounds: int, sample: Callable[[], T], progress: Progress, title: str
) -> tuple[list[int], list[T]]:
    """Warm up, and then take a sample after each block of rounds."""
    each = int(rounds * (1 - WARM_UP)) // BLOCKS
    samples: list[T] = []
    with progress.work(title, rounds) as bar:
        for number in range(BLOCKS + 1):
            count = each if number else rounds - each * BLOCKS
            for _ in range(count):
                work()
            bar.advance(count)
            if number:
                gc.collect()
                trim()
                samples.append(sample())
    return [each * number for number in range(1, BLOCKS + 1)], samples


def _resident() -> float:
    """Bytes. `smaps_rollup` counts pages; `status` adds up what threads have told so far (proc(5))."""
    for line in read(Path("/proc/self/smaps_rollup")).splitlines():
        if line.startswith("Rss:"):
            return float(line.split()[1]) * 1024
    return resident("VmRSS")


def _traced() -> dict[tracemalloc.Traceback, int]:
    """Bytes by where they were allocated, but for what this file and `tracemalloc` hold."""
    own = [tracemalloc.Filter(False, file) for file in (__file__, tracemalloc.__file__)]
    taken = tracemalloc.take_snapshot().filter_traces(own).statistics("traceback")
    return {found.traceback: found.size for found in taken}


def _lines(at: list[int], snapshots: list[dict[tracemalloc.Traceback, int]]) -> tuple[Line, ...]:
    first, last = snapshots[0], snapshots[-1]
    grew = sorted(last, key=lambda place: first.get(place, 0) - last[place])[:_CANDIDATES]
    found = [(place, growth(at, [sizes.get(place, 0) for sizes in snapshots], warm_up=0)) for place in grew]
    steady = sorted((row for row in found if row[1].steady), key=lambda row: -row[1].slope)
    return tuple(Line(*_named(place), rate) for place, rate in steady[:_SHOWN])


def _named(place: tracemalloc.Traceback) -> tuple[str, tuple[str, ...]]:
    where, *callers = (f"{frame.filename}:{frame.lineno}" for frame in reversed(place))  # the oldest frame comes first
    return where, tuple(callers)
