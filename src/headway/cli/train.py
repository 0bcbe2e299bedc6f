"""`headway train`."""

from pathlib import Path
from typing import Annotated

import typer

from headway.cli.render import Bars, Json, emit, out


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
    processes: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine.")] = 1,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The weights' file; by default the recipe's name, here.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key.key=value, wins over the recipe; may be given often.")
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="How often the processes are started again after one was lost.")
    ] = 3,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Under torchrun: a folder that every process sees; by default beside --out.")
    ] = None,
    record_folder: Annotated[
        Path | None, typer.Option("--record", hidden=True)
    ] = None,  # of whoever started these processes
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from earlier runs.")] = False,
    json: Json = False,
) -> None:
    """Train a recipe's model and write its weights; `headway ship` then takes it as it is.

    On several machines: `torchrun ... -m headway train RECIPE --checkpoints SHARED`, with torchrun's own options.
    """
    from headway.train.launch import launched, reported

    if launched():
        from headway.shipping.train import work

        folders = {"out": out_file, "checkpoints": checkpoints, "record": record_folder}
        reported(lambda: work(recipe, **folders, overrides=settings or (), progress=Bars()))
        return
    from headway.shipping.train import train as run

    trained = run(
        recipe,
        out=out_file,
        overrides=settings or (),
        processes=processes,
        restarts=restarts,
        fresh=fresh,
        progress=Bars(),
    )
    if json:
        emit({"weights": str(trained.weights), **trained.record})
        return
    record = trained.record
    out().print(
        f"{trained.weights}: {record['steps']} steps, loss {record['loss']:.4f}, {record['seconds']:.1f} s, "
        f"{record['processes']} process{'es' * (record['processes'] > 1)}, {record['reason']}",
        markup=False,
        soft_wrap=True,
    )
