"""`headway runs`: what every run left behind."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.render import Json, emit, out, table

if TYPE_CHECKING:
    from headway.runs.read import Recorded

app = typer.Typer(help="List, show and compare the records of runs.", no_args_is_help=True)

Html = Annotated[Path | None, typer.Option(help="Write it as a page with the curves, too.", show_default=False)]
Metric = Annotated[str, typer.Option(help="Which curve to draw: loss, norm, lr, rows_s or wait.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """Every run, oldest first."""
    from headway.runs.read import recorded

    rows = [run.summary() for run in recorded()]
    if json:
        emit(rows)
    elif rows:
        table("", list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])
    else:
        out().print("no runs yet; headway ship makes one")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Its id or the beginning of it, a name, or last.", show_default=False)],
    metric: Metric = "loss",
    html: Html = None,
    json: Json = False,
) -> None:
    """One run: what it stood on, what came of it, its findings and its curve."""
    from headway.runs.read import find

    found = find(run)
    _write(html, [found])
    if json:
        emit({**found.record.model_dump(mode="json"), "folder": str(found.folder), "metrics": found.lines()})
        return
    record, summary = found.record, found.summary()
    about = {
        **summary,
        "continues": record.continues,
        "seed": record.seed,
        "data": record.data.get("sha256"),
        "git_commit": record.git_commit,
        "machine": record.machine.get("cpu"),
        "error": record.error,
        **{key: value for key, value in record.result.items() if not isinstance(value, dict)},
        "folder": found.folder,
    }
    table("", ["", ""], [[key, _shown(value)] for key, value in about.items() if value not in (None, "")])
    for file in record.data.get("files", []):
        says = {"same": ", as its .dvc file has it", "differs": "; its .dvc file says otherwise"}.get(file["dvc"], "")
        out().print(f"{file['path']}: md5 {file['md5']}{says}", markup=False, soft_wrap=True)
    for it in record.findings:
        step = f"step {it['step']}" if it["step"] else "before the first step"
        out().print(f"\n{it['layer']}, {step}: {it['message']}", markup=False, soft_wrap=True)
        out().print(f"  try: {it['advice']}", markup=False, soft_wrap=True)
    _draw([found], metric)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Ids, names, or last.", show_default=False)],
    metric: Metric = "loss",
    html: Html = None,
    json: Json = False,
) -> None:
    """Runs beside each other: what came of them, what differs, and their curves."""
    from headway.runs.compare import differing, outcomes
    from headway.runs.read import find

    found = [find(run) for run in runs]
    _write(html, found)
    settings, came = differing(found), outcomes(found)
    if json:
        emit({"runs": [run.record.id for run in found], "outcomes": came, "differs": settings})
        return
    columns = ["", *(run.record.id for run in found)]
    table("what came of it", columns, [[key, *map(_shown, values)] for key, values in came.items()])
    out().print()
    table("what differs", columns, [[key, *map(_shown, values)] for key, values in settings.items()])
    _draw(found, metric)


def _draw(runs: "list[Recorded]", metric: str) -> None:
    from headway.core.errors import UsageError
    from headway.runs.compare import together
    from headway.runs.curves import in_terminal

    known = sorted({name for run in runs for name in run.curves()})
    if not known:
        return
    if metric not in known:
        raise UsageError("no run has this metric", where=metric, remedy=f"There are {', '.join(known)}.")
    out().print()
    out().print(in_terminal(together(runs, [metric])[metric], metric), markup=False, soft_wrap=True)


def _write(html: Path | None, runs: "list[Recorded]") -> None:
    if html is not None:
        from headway.core.files import write_atomic
        from headway.runs.compare import page

        write_atomic(html, page(runs))


def _shown(value: Any) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
