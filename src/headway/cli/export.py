"""`headway export`: a model in other formats."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from headway.cli.render import Bars, Json, emit, table


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL.onnx|BUNDLE", help="What to export; of a bundle, the chosen variant.", show_default=False
        ),
    ],
    to: Annotated[str, typer.Option(help="The format: onnx, openvino, or all that can be written here.")],
    out: Annotated[Path | None, typer.Option(help="The folder.", show_default="the current one")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Rows that every run will have.", show_default="they vary")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(help=".npz with an array for each input, for the proof.", show_default="random numbers"),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="OpenVINO in 8 bits, calibrated on --inputs by NNCF; its environment is made on first use."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Write a model in other formats, each proved to answer as the original does where a runtime for it is here."""
    from headway.shipping.export import export as write

    done = write(model, to, out=out, batch=batch, inputs=inputs, int8=int8, progress=Bars())
    if json:
        emit({"exports": [asdict(each) | {"files": list(map(str, each.files))} for each in done]})
        return
    rows = []
    for each in done:
        largest = max((each.differences or {}).values(), default=0.0)
        proof = f"answers as the original in {each.proved}, to {largest:.3g}" if each.proved else "not run here"
        rows.append([each.format, ", ".join(map(str, each.files)) or "not written", proof if each.files else each.why])
    table("", ["format", "files", ""], rows)
