"""`headway doctor`."""

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.render import Json, emit, out, plain

if TYPE_CHECKING:
    from headway.doctor.doctor import Report

_LACKS = 4  # the environment lacks something
_MARKS = {"ok": "[green]ok[/green]  ", "warn": "[yellow]warn[/yellow]", "fail": "[red]fail[/red]"}
_VERDICTS = {
    "ok": "[green]Nothing stands in the way.[/green]",
    "warn": "[yellow]It works; the warnings say what could be better.[/yellow]",
    "fail": "[red]Something that is needed is missing.[/red]",
}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[BUNDLE|RECIPE]", help="Also see what this bundle or recipe needs.", show_default=False
        ),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Also run a tiny model in each runtime, and a torch step: some seconds.")
    ] = False,
    json: Json = False,
) -> None:
    """Examine this machine and environment: what is here, what is wrong, and what to do about it.

    Nothing of a bundle's or a recipe's own is run. Exit code 4: something that is needed is missing.
    """
    from headway.doctor.doctor import examine

    report = examine(target, run=run)
    if json:
        emit(report.document())
    else:
        _show(report)
    if report.verdict == "fail":
        raise typer.Exit(_LACKS)


def _show(report: "Report") -> None:
    from rich.markup import escape

    for area, findings in groupby(sorted(report.findings, key=lambda f: _order(report, f.area)), lambda f: f.area):
        out().print(f"[bold]{area}[/bold]", soft_wrap=True)
        for finding in findings:
            text = escape(plain(f"{finding.what}: {finding.found}"))
            out().print(f"  {_MARKS[finding.severity]} {text}", soft_wrap=True)
            if finding.fix:
                out().print(f"       -> {escape(plain(finding.fix))}", soft_wrap=True)
            if finding.fix and finding.source:
                out().print(f"          {escape(plain(finding.source))}", style="dim", soft_wrap=True)
    out().print(_VERDICTS[report.verdict])


def _order(report: "Report", area: str) -> int:
    """Areas stay in the order in which they were first looked at."""
    return [finding.area for finding in report.findings].index(area)
