"""`headway ship`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.render import Bars, Json, emit, err, out, table

if TYPE_CHECKING:
    from headway.shipping.verdict import ShipResult

_COLOURS = {"pass": "green", "fail": "red", "insufficient": "yellow"}


def ship(
    recipe: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="The bundle's folder; by default the recipe's name, here.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key.key=value, wins over the recipe; may be given often.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from earlier runs.")] = False,
    register: Annotated[bool, typer.Option(help="Add the shipped bundle to the registry.")] = True,
    json: Json = False,
) -> None:
    """Train, compress, measure and seal a model, or refuse to.

    Exit code 3 means that a gate refused: no variant was proven to keep what the recipe asks for.
    """
    from headway.shipping.ship import ship as run

    result = run(recipe, out=folder, overrides=settings or (), fresh=fresh, register=register, progress=Bars())
    if json:
        emit(result.document())
    else:
        _show(result)
    if result.verdict != "shipped":
        raise typer.Exit(3)


def _show(result: "ShipResult") -> None:
    reference = result.evaluation.reference
    rows: list[list[object]] = [
        [
            f"original, {reference.name}",
            "",
            f"{reference.accuracy:.4f}",
            "1",
            f"{reference.latency_ms.p50:.3f}",
            f"{reference.latency_ms.p99:.3f}",
            f"{reference.size_mb:.3f}",
        ]
    ]
    for id_, judged in result.judged.items():
        card = judged.card
        low, middle, high = card.speedup
        rows.append(
            [
                f"{id_} ({judged.built.precision}, {judged.runtime})",
                judged.gate.outcome,
                f"{card.accuracy.value:.4f}",
                f"{middle:.2f} ({low:.2f}-{high:.2f})",
                f"{card.latency_ms.p50:.3f}",
                f"{card.latency_ms.p99:.3f}",
                f"{card.size_mb:.3f}",
            ]
        )
    metric = next(iter(result.judged.values())).card.accuracy.metric
    table("", ["variant", "gate", metric, "speedup", "p50 ms", "p99 ms", "MB"], rows)
    for id_, judged in result.judged.items():
        colour = _COLOURS[judged.gate.outcome]
        out().print(f"\n[bold]{id_}[/bold]: [{colour}]{judged.gate.outcome}[/{colour}]")
        for reason in judged.gate.reasons:
            out().print(f"  {reason}", markup=False, soft_wrap=True)
        if slower := result.slower.get(id_):
            line = (
                f"  not faster than {slower.over.parent} ({slower.over.speedup[1]:.2f}x): {slower.comparison.summary}"
            )
            out().print(line, markup=False, soft_wrap=True)
    out().print()
    if result.search is not None:
        for idea in result.search.further:
            out().print(f"with more time: {idea.candidate} ({idea.why})", markup=False, soft_wrap=True)
        out().print()
    if result.verdict == "shipped":
        out().print(f"shipped {result.chosen}, version {result.version}: {result.bundle}", markup=False, soft_wrap=True)
        out().print(f"report: {result.report}", markup=False, soft_wrap=True)
    else:
        why = {
            "refused": "every variant fails the gate",
            "insufficient": "no variant is proven to keep what the recipe asks for",
        }[result.verdict]
        err().print(f"[bold red]{result.verdict}[/bold red]: {why}; nothing was registered", soft_wrap=True)
        err().print(f"nearest: {result.nearest}; report: {result.report}", markup=False, soft_wrap=True)
