"""`headway cache`: what `ship` keeps, so that nothing is computed twice, and environments made on first use."""

import time
from collections import defaultdict
from typing import Annotated

import typer

from headway.cli.render import Bars, Json, emit, out, table

app = typer.Typer(help="List and clear the results that `headway ship` keeps, and environments.", no_args_is_help=True)
_DAY_S = 86_400


@app.command("list")
def list_(json: Json = False) -> None:
    """What is kept, by kind of stage, and which environments are made."""
    from headway.export.environments.environment import environments
    from headway.export.environments.environment import kept as made
    from headway.shipping.store import Kept, kept, ship_cache

    kinds: dict[str, list[Kept]] = defaultdict(list)
    for one in kept(ship_cache()):
        kinds[one.kind].append(one)
    sizes = {kind: sum(one.size for one in some) for kind, some in sorted(kinds.items())}
    days = {kind: _days(some[0].used) for kind, some in kinds.items()}
    if json:
        rows = [
            {"kind": kind, "results": len(kinds[kind]), "bytes": size, "unused_days": days[kind]}
            for kind, size in sizes.items()
        ]
        own = [{"environment": one.name, "bytes": one.size, "unused_days": _days(one.used)} for one in made()]
        emit({"folder": str(ship_cache()), "kinds": rows, "environments": own})
        return
    out().print(f"{ship_cache()}: {_mb(sum(sizes.values()))}", markup=False, soft_wrap=True)
    cells = [[kind, len(kinds[kind]), _mb(size), f"{days[kind]} days"] for kind, size in sizes.items()]
    table("", ["stage", "results", "size", "longest unused"], cells)
    if environs := made():
        out().print(f"{environments()}: {_mb(sum(one.size for one in environs))}", markup=False, soft_wrap=True)
        cells = [[one.name, _mb(one.size), f"{_days(one.used)} days"] for one in environs]
        table("", ["environment", "size", "unused"], cells)


@app.command()
def make(name: Annotated[str, typer.Argument(help="Of the environment: nncf.", show_default=False)]) -> None:
    """Make an environment now, as its first use would: for machines that will have no network, and for images."""
    from headway.export.environments.environment import environment

    out().print(str(environment(name, Bars()).folder), markup=False, soft_wrap=True)


@app.command()
def clear(
    unused: Annotated[float, typer.Option(min=0, help="Days that a result must have been unused.")] = 30,
    json: Json = False,
) -> None:
    """Delete results and environments that were not used for so many days; what a ship may be using now stays."""
    from headway.export.environments.environment import kept as made
    from headway.shipping.store import kept, ship_cache

    before = time.time() - unused * _DAY_S
    gone = [one for one in kept(ship_cache()) if one.used <= before and one.remove()]
    own = [one for one in made() if one.used <= before and one.remove()]
    size = sum(one.size for one in gone) + sum(one.size for one in own)
    if json:
        emit({"removed": len(gone), "environments": len(own), "bytes": size})
    else:
        several = f"removed {len(gone)} results and {len(own)} environments, {_mb(size)}"
        out().print(f"{several}; what was used within the last hour stays")


def _days(used: float) -> float:
    return round((time.time() - used) / _DAY_S, 1)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
