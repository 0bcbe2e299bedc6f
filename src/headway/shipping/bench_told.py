"""What `headway bench` found, in sentences: the same in the terminal and on the page."""

from typing import TYPE_CHECKING

from headway.measure.loadgen import CONFIRM
from headway.measure.sweep import SHARE, Point
from headway.shipping.bench_modes import Offline, Server, Stream, Sweep

if TYPE_CHECKING:
    from headway.shipping.bench import Bench

COLUMNS = ("batch", "threads", "rows/s", "limits", "p50 ms", "p90 ms", "p99 ms", "at most", "memory MB")
_BUSY = 0.1  # of the processors


def cells(it: Point) -> list[str]:
    """A row of the table of points."""
    tail, high = it.latency, it.latency.p99_high
    return [
        str(it.batch),
        str(it.threads),
        f"{it.rows_s:,.1f}",
        f"{it.rows_s_low:,.1f} to {it.rows_s_high:,.1f}",
        f"{tail.p50:.3f}",
        f"{tail.p90:.3f}",
        *(("too few runs", "") if high is None else (f"{tail.p99:.3f}", f"{high:.3f}")),
        f"{it.memory_mb:,.1f}",
    ]


def told(found: "Bench") -> list[str]:
    """One sentence for each thing that a reader must know, what was found first."""
    result = found.result
    if isinstance(result, Sweep):
        lines = _sweep(result, found.p99_ms)
    elif isinstance(result, Server):
        lines = _server(result, found.p99_ms or 0.0)
    elif isinstance(result, Offline):
        limits = f"{result.rows_s_low:,.1f} to {result.rows_s_high:,.1f}"
        with_ = f"batches of {result.batch}, {_threads(result.threads)}, {result.rows:,} rows"
        lines = [f"{result.rows_s:,.1f} rows/s ({limits}), {with_}"]
    else:
        lines = [_stream(it) for it in result]
    lines += _stopped(found)
    lines.append(f"memory: {SHARE:.0%} of {found.memory_mb:,.0f} MB allowed")
    if found.others > _BUSY:
        lines.append(
            f"other processes took {found.others:.0%} of this machine's processors meanwhile: the figures are rough"
        )
    if found.random_inputs:
        lines.append("inputs are random numbers: give real ones with --inputs where the time hangs on them")
    return lines


def _sweep(result: Sweep, bound: float | None) -> list[str]:
    knee = f"{_point(result.knee)} is the smallest batch within 5% of the best throughput"
    lines = [knee]
    if bound is not None:
        if result.best is not None:
            high = result.best.latency.p99_high
            lines = [f"best within {bound:g} ms: {_point(result.best)}; its 99th percentile is at most {high:.3g} ms"]
        elif result.undecided:
            few = f"{result.rounds} turns are too few for an upper limit of the 99th percentile"
            lines = [f"{few}: --seconds {result.seconds:.0f} should do", knee]
        else:
            lines = [f"no batch keeps its 99th percentile within {bound:g} ms", knee]
    if result.groups > 1:
        lines.append(f"taken in {result.groups} groups: memory does not hold all candidates at once")
    return lines


def _server(result: Server, bound: float) -> list[str]:
    with_ = f"batches of up to {result.max_batch}, {_threads(result.threads)}"
    if result.queries_s is not None:
        seen = f"median {result.p50:.3g} ms, 99th percentile {result.p99:.3g} ms, at most {result.p99_high:.3g}"
        kept = f"{result.queries_s:,.1f} queries/s keep the 99th percentile within {bound:g} ms, {with_}"
        return [f"{kept}: {seen}, in {CONFIRM} runs"]
    if result.outcome == "none":
        least = min(it.queries_s for it in result.probes)
        return [f"no rate keeps the 99th percentile within {bound:g} ms, down to {least:,.1f} queries/s; {with_}"]
    short = "the runs are too short, or the machine is too unsteady, to tell a rate"
    return [f"{short}: --seconds {result.seconds:.0f} should do; {with_}"]


def _stream(it: Stream) -> str:
    if it.p90 is None:
        return f"{_threads(it.threads)}: {it.queries} queries are too few for the 90th percentile: give more --seconds"
    return (
        f"{_threads(it.threads)}: 90th percentile {it.p90:.3g} ms, at most {it.p90_high:.3g}; median {it.p50:.3g} ms, "
        f"{it.queries:,} queries one after the other"
    )


def _stopped(found: "Bench") -> list[str]:
    reasons = {
        "memory": f"the next batch would take {found.expected_mb or 0:,.1f} MB",
        "plateau": "throughput does not grow any more",
        "latency": f"no run of the largest keeps within {found.p99_ms:g} ms" if found.p99_ms is not None else "",
        "limit": "the limit is --max-batch",
        "fixed": "the model's batch is fixed",
        "refused": found.reason,
    }
    return [] if found.stopped is None else [f"no larger batch was tried: {reasons[found.stopped]}"]


def _point(it: Point) -> str:
    return f"batch {it.batch}, {_threads(it.threads)}: {it.rows_s:,.1f} rows/s, median {it.latency.p50:.3g} ms"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"
