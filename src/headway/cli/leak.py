"""`headway leak`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.render import Bars, Json, emit, out, plain, table

if TYPE_CHECKING:
    from headway.measure.growth import Growth
    from headway.measure.leak import Leak

_REFUSED = 3


def leak(
    target: Annotated[Path, typer.Argument(metavar="BUNDLE|MODEL.onnx", help="What to run.", show_default=False)],
    rounds: Annotated[int, typer.Option(help="Runs of each of the two passes.")] = 1000,
    bound: Annotated[float, typer.Option(help="Bytes a round below which growth does not matter.", min=1)] = 1024,
    variant: Annotated[
        str | None, typer.Option(help="Id of a bundle's variant.", show_default="the chosen one")
    ] = None,
    json: Json = False,
) -> None:
    """Run a model many times and say whether its memory grows, how fast, and which allocations grow.

    Exit code 3: it grows, or these rounds cannot tell.
    """
    from headway.shipping.leak import leak as run

    found = run(target, variant=variant, rounds=rounds, bound=bound, progress=Bars())
    if json:
        emit(found.document())
    else:
        _show(found)
    if found.verdict != "flat":
        raise typer.Exit(_REFUSED)


def _show(found: "Leak") -> None:
    rows = [("resident memory", *_cells(found.resident)), ("Python's allocations", *_cells(found.python))]
    low, slope, high = found.native
    rows.append(("native: the rest", f"{slope:+,.0f}", f"{low:+,.0f} to {high:+,.0f}", ""))
    table("", ["", "bytes a round", "95% limits", "now, MB"], rows)
    for line in found.lines:
        out().print(f"\n{plain(line.where)}: {line.growth.slope:+,.0f} bytes a round", markup=False, soft_wrap=True)
        for caller in line.callers:
            out().print(f"  called at {plain(caller)}", markup=False, soft_wrap=True)
    watched = f"over {found.rounds:,} rounds"
    verdicts = {
        "grows": f"[red]grows[/red] {watched}" + (", in native code" if found.native_grows else ""),
        "flat": f"[green]flat[/green] {watched}: less than {found.bound:,.0f} bytes a round",
        "insufficient": f"[yellow]not enough evidence[/yellow] {watched}: --rounds {found.more_rounds} should tell",
    }
    out().print(f"\n{verdicts[found.verdict]}", soft_wrap=True)


def _cells(rate: "Growth") -> tuple[str, str, str]:
    return f"{rate.slope:+,.0f}", f"{rate.low:+,.0f} to {rate.high:+,.0f}", f"{rate.last / 1e6:.1f}"
