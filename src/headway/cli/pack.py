"""`headway pack`."""

from pathlib import Path
from typing import Annotated

import typer

from headway.cli.render import Json, emit, err, out


def pack(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A ready ONNX file.", show_default=False)],
    name: Annotated[str, typer.Option(help="The model's name; it stands in URLs.", show_default=False)],
    folder: Annotated[
        Path | None, typer.Option("--out", help="The bundle's folder.", show_default="the name, here")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help=".npz with an array for each input, by name.", show_default="from processing, or random numbers"
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Text file with each class's name on a line.", show_default=False)
    ] = None,
    processing: Annotated[
        Path | None,
        typer.Option(help="YAML that declares what is done before and after the model.", show_default=False),
    ] = None,
    pad: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=VALUE",
            help="Fill up this input with this value, so that rows of different lengths may share a run. Repeatable.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[str, typer.Option(help="A whole number from 1.")] = "1",
    json: Json = False,
) -> None:
    """Seal a ready ONNX file as it stands, with golden samples. Nothing is measured or compared."""
    from headway.shipping.pack import pack as run

    packed = run(
        model, name=name, out=folder, version=version, inputs=inputs, labels=labels, processing=processing,
        padding=dict(map(_padding, pad or ())),
    )  # fmt: skip
    bundle = packed.bundle
    if packed.random_inputs:
        err().print("golden inputs are random numbers; give real ones with --inputs SAMPLES.npz", soft_wrap=True)
    if json:
        emit(
            {
                "bundle": str(bundle.path),
                "name": bundle.manifest.name,
                "version": bundle.manifest.version,
                "digest": bundle.digest,
                "inputs": "random" if packed.random_inputs else "given",
                "tolerance": bundle.manifest.variant().tolerance,
                "padding": bundle.manifest.padding,
            }
        )
        return
    out().print(f"packed {name}, version {version}: {bundle.path}", markup=False, soft_wrap=True)
    out().print(f"serve it: headway serve {bundle.path}", markup=False, soft_wrap=True)


def _padding(given: str) -> tuple[str, float]:
    from headway.core.errors import UsageError

    name, _, value = given.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"{given!r} is not INPUT=VALUE, such as input_ids=0", where="--pad") from None
