"""`headway cache`: what `ship` keeps, so that nothing is computed twice."""

import time
from collections import defaultdict
from typing import Annotated

import typer

from headway.cli.render import Json, emit, out, table

app = typer.Typer(help="List and clear the results that `headway ship` keeps.", no_args_is_help=True)
_DAY_S = 86_400


@app.command("list")
def list_(json: Json = False) -> None:
    """What is kept, by kind of stage."""
    from headway.shipping.store import Kept, kept, ship_cache

    kinds: dict[str, list[Kept]] = defaultdict(list)
    for one in kept(ship_cache()):
        kinds[one.kind].append(one)
    sizes = {kind: sum(one.size for one in some) for kind, some in sorted(kinds.items())}
    days = {kind: round((time.time() - some[0].used) / _DAY_S, 1) for kind, some in kinds.items()}
    if json:
        rows = [
            {"kind": kind, "results": len(kinds[kind]), "bytes": size, "unused_days": days[kind]}
            for kind, size in sizes.items()
        ]
        emit({"folder": str(ship_cache()), "kinds": rows})
        return
    out().print(f"{ship_cache()}: {_mb(sum(sizes.values()))}", markup=False, soft_wrap=True)
    cells = [[kind, len(kinds[kind]), _mb(size), f"{days[kind]} days"] for kind, size in sizes.items()]
    table("", ["stage", "results", "size", "longest unused"], cells)


@app.command()
def clear(
    unused: Annotated[float, typer.Option(min=0, help="Days that a result must have been unused.")] = 30,
    json: Json = False,
) -> None:
    """Delete results that were not used for so many days; what a ship may be using now stays."""
    from headway.shipping.store import kept, ship_cache

    before = time.time() - unused * _DAY_S
    gone = [one for one in kept(ship_cache()) if one.used <= before and one.remove()]
    size = sum(one.size for one in gone)
    if json:
        emit({"removed": len(gone), "bytes": size})
    else:
        out().print(f"removed {len(gone)} results, {_mb(size)}; what was used within the last hour stays")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
