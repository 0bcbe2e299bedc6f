"""`headway profile`: where a model's time goes, and against another model, what changed and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.render import Bars, Json, emit, out, table

if TYPE_CHECKING:
    from headway.measure.causes import Comparison
    from headway.measure.profile import Profile
    from headway.measure.reach import Reach, Reached

_LINES = 30


def profile(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|BUNDLE", help="What to profile.", show_default=False)],
    against: Annotated[
        Path | None, typer.Option(help="Another model or bundle, such as the one it was made from.", show_default=False)
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help=".npz with an array for each input, by name.",
            show_default="a bundle's first golden sample, or random numbers",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a run.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads a run.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Time to measure in, about.")] = 2.0,
    html: Annotated[Path | None, typer.Option(help="Write it as a page, too.", show_default=False)] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write it for chrome://tracing or Perfetto, too.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Say what each operator of a model takes; with --against, why it is not faster than the other.

    Of a bundle, the chosen variant.
    """
    from headway.shipping.profile import profile_files

    found = profile_files(
        model, against=against, inputs=inputs, batch=batch, threads=threads, seconds=seconds, html=html,
        trace=trace, progress=Bars(),
    )  # fmt: skip
    if json:
        emit(found.document())
        return
    if found.comparison is None:
        _show(found.profile, found.reached)
    else:
        _compare(found.comparison, str(against), str(model))
    if trace is not None:
        out().print(f"trace: {trace}", markup=False, soft_wrap=True)
    if html is not None:
        out().print(f"page: {html}", markup=False, soft_wrap=True)


def _show(found: "Profile", reached: "Reached") -> None:
    from headway.measure.join import totals
    from headway.measure.timeline import memory

    rows = [[kind, count, f"{ms:.4f}", f"{ms / found.ms:.1%}"] for kind, count, ms in totals(found)]
    out().print(_title(found), markup=False, soft_wrap=True)
    table("", ["operators", "count", "ms", "share"], rows)
    out().print()
    dearest = sorted(reached.each, key=lambda it: it.ms, reverse=True)[:_LINES]
    each: list[list[Any]] = [
        [it.name, it.kind, f"{it.ms:.4f}", f"{it.ms / found.ms:.1%}", *_rates(it)] for it in dearest
    ]
    each.append([reached.whole.name, "", f"{found.ms:.4f}", "", *_rates(reached.whole)])
    columns = ["operator", "kind", "ms", "share", "Gop/s", "GB/s", "op/byte", "bound by", "of the roofline"]
    table("", columns, each)
    held = memory(found)
    alive = f"activations take {held.peak / 1e6:.2f} MB at the most, at {held.at}; weights {held.weights / 1e6:.2f} MB"
    out().print(f"memory, counted: {alive}", markup=False, soft_wrap=True)
    roof = reached.roofline
    peaks = ", ".join(f"{rate / 1e9:.0f} Gop/s in {precision}" for precision, rate in roof.peak.items())
    moved = f"{roof.bandwidth / 1e9:.0f} GB/s from memory, {roof.cached / 1e9:.0f} GB/s in a cache"
    out().print(f"roofline, measured: {peaks}, {moved}", markup=False, soft_wrap=True)
    if reached.unknown:
        out().print(f"only the bytes are counted of: {', '.join(reached.unknown)}", markup=False, soft_wrap=True)


def _rates(it: "Reach") -> list[str]:
    if it.of_roofline is None or not it.bytes:
        return ["", "", "", "", ""]
    rates = f"{it.operations / it.ms / 1e6:.1f}", f"{it.bytes / it.ms / 1e6:.1f}"
    return [*rates, f"{it.operations / it.bytes:.1f}", it.least.by, f"{it.of_roofline:.0%}"]


def _compare(found: "Comparison", parent: str, child: str) -> None:
    from headway.measure.join import condense

    rows: list[list[Any]] = [
        [
            f"{line.name} ({line.count})" if line.count > 1 else line.name,
            line.parent,
            f"{line.parent_ms:.4f}" if line.parent or not line.child else "",
            line.child,
            f"{line.child_ms:.4f}" if line.child or not line.parent else "",
            f"{line.child_ms / line.parent_ms:.2f}" if line.parent and line.child and line.parent_ms > 0 else "",
        ]
        for line in condense(found.parent, found.child, _LINES)
    ]
    rows.append(
        [
            "the whole run",
            "",
            f"{found.parent.ms:.4f}",
            "",
            f"{found.child.ms:.4f}",
            f"{found.child.ms / found.parent.ms:.2f}",
        ]
    )
    out().print(_title(found.child), markup=False, soft_wrap=True)
    table("", ["layer", parent, "ms", child, "ms", "ratio"], rows)
    for cause in found.causes:
        out().print(f"\n{cause.cause}: {cause.evidence}", markup=False, soft_wrap=True)
        out().print(f"  try: {cause.remedy}", markup=False, soft_wrap=True)
    if not found.causes:
        out().print(f"\n{found.summary}", markup=False, soft_wrap=True)


def _title(found: "Profile") -> str:
    return (
        f"{found.ms:.4f} ms a run of {found.rows} row{'s' if found.rows != 1 else ''}, {found.threads} "
        f"thread{'s' if found.threads != 1 else ''}; {1000 * found.taken_off_ms:.1f} µs taken off each operator for "
        "the profiler"
    )
