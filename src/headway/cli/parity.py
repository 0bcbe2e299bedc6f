"""`headway parity`: the same answers in every format, precision and runtime?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.render import Bars, Json, emit, out, table

if TYPE_CHECKING:
    from headway.shipping.parity import Line

_REFUSED = 3


def parity(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|BUNDLE", help="What to compare.", show_default=False)],
    inputs: Annotated[
        Path | None,
        typer.Option(
            help=".npz with an array for each input, by name; of an ONNX file.", show_default="random numbers"
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as a page, too.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Compare a model's answers in every format, precision and runtime with the original's.

    Exit code 3: one differs by more than it may.
    """
    from headway.core.files import write_atomic
    from headway.shipping.parity import page
    from headway.shipping.parity import parity as compare

    found = compare(model, inputs=inputs, progress=Bars())
    if html is not None:
        write_atomic(html, page(found))
    if json:
        emit(found.document())
    else:
        out().print(f"{found.model} against {found.original}; inputs: {found.inputs}", markup=False, soft_wrap=True)
        columns = ["model", "format", "precision", "runtime", "device", "state", "largest", "mean", "agree", ""]
        table("", columns, [_row(line) for line in found.lines if not line.absent])
        absent = dict.fromkeys(f"{line.runtime} on {line.device}" for line in found.lines if line.absent)
        if absent:
            out().print(f"not run here, for no such device works: {', '.join(absent)}", markup=False, soft_wrap=True)
        if html is not None:
            out().print(f"page: {html}", markup=False, soft_wrap=True)
    if found.failed:
        raise typer.Exit(_REFUSED)


def _row(line: "Line") -> list[object]:
    worst = line.worst
    figures = (f"{worst.largest:.3g}", f"{worst.mean:.3g}") if worst else ("", "")
    agree = f"{worst.agreement:.4f}" if worst and worst.agreement is not None else ""
    return [line.model, line.format, line.precision, line.runtime, line.device, line.state, *figures, agree, line.words]
