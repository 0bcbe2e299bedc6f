"""`headway bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headway.cli.render import Bars, Json, emit, out, table

if TYPE_CHECKING:
    from headway.shipping.bench_modes import Sweep


def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|BUNDLE", help="What to measure.", show_default=False)],
    mode: Annotated[
        Literal["sweep", "single-stream", "server", "offline"],
        typer.Option(help="Batches by turns, or one of MLPerf's shapes of load."),
    ] = "sweep",
    p99: Annotated[
        float | None, typer.Option(help="Bound on the 99th percentile, ms.", min=0.001, show_default=False)
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="CPU threads a run, such as 1,2.", show_default="1 and all usable cores")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="The largest batch.")] = 1024,
    memory: Annotated[
        float | None, typer.Option(min=1, help="Memory allowed, MB.", show_default="what is free")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to measure in, about.")] = 60.0,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help=".npz with an array for each input, by name.",
            show_default="a bundle's first golden sample, or random numbers",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Id of a bundle's variant.", show_default="the chosen one")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals and turns.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write a sweep as a page, too.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Find the batch to run a model with, or the load that it carries.

    Tries larger batches until memory would run short or throughput grows no more. With --p99, names the greatest
    throughput within it. --mode server finds the greatest rate of random arrivals that keeps it.
    """
    from headway.shipping.bench import bench as run
    from headway.shipping.bench_modes import Sweep
    from headway.shipping.bench_told import told

    found = run(
        model, mode=mode, variant=variant, inputs=inputs, threads=_counts(threads), max_batch=max_batch,
        memory_mb=memory, p99_ms=p99, seconds=seconds, seed=seed, html=html, progress=Bars(),
    )  # fmt: skip
    if json:
        emit(found.document())
        return
    if isinstance(found.result, Sweep):
        _show(found.result)
    for line in told(found):
        out().print(line, markup=False, soft_wrap=True)
    if html is not None:
        out().print(f"page: {html}", markup=False, soft_wrap=True)


def _counts(text: str | None) -> list[int]:
    from headway.core.errors import UsageError

    try:
        counts = [int(part) for part in (text or "").split(",") if text]
    except ValueError:
        counts = [0]
    if not all(0 < count <= 4096 for count in counts):
        raise UsageError(f"{text!r} are no numbers of threads", where="--threads", remedy="Give some, such as 1,2.")
    return counts


def _show(result: "Sweep") -> None:
    from headway.core.errors import MissingDependencyError
    from headway.runs.curves import in_terminal
    from headway.shipping.bench_told import COLUMNS, cells

    table("", COLUMNS, [cells(it) for it in result.points])
    curves = {
        f"{threads} thread{'s' if threads > 1 else ''}": (
            [it.latency.p50 for it in result.points if it.threads == threads],
            [it.rows_s for it in result.points if it.threads == threads],
        )
        for threads in sorted({it.threads for it in result.points})
    }
    if len({it.batch for it in result.points}) > 1:
        try:
            drawn = in_terminal(curves, "rows/s", x="median ms")
        except MissingDependencyError:  # the table says the same
            return
        out().print(drawn, markup=False, soft_wrap=True)
