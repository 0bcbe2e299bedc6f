"""`headway inspect`: what a file is and holds. Nothing in it is run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.render import Json, emit, out, table

if TYPE_CHECKING:
    from headway.runtimes.formats import Format

_SHOWN = 40  # tensors in the table for people


def inspect(
    file: Annotated[Path, typer.Argument(help="A model, weights, arrays or a bundle.", show_default=False)],
    view: Annotated[bool, typer.Option("--view", help="Draw its graph in the browser, with Netron.")] = False,
    json: Json = False,
) -> None:
    """Say what a file is, by its content, and what it holds."""
    from headway.core.errors import FormatError
    from headway.runtimes.formats import Format, recognise

    found = recognise(file)
    if not found.safe:
        raise FormatError(
            f"{found.title}: loading it could run code in it, so Headway does not",
            where=str(file),
            remedy=f"Turn its weights into safetensors: headway convert {file}",
        )
    if found is Format.UNKNOWN:
        empty = file.is_file() and file.stat().st_size == 0
        raise FormatError("the file is empty" if empty else "of no format that Headway knows", where=str(file))
    if view:
        _view(file)
        return
    about = {"file": str(file), "format": found.key, "title": found.title, **_about(file, found)}
    if json:
        emit(about)
        return
    out().print(f"{file}: {found.title}", markup=False, soft_wrap=True)
    if found in (Format.BUNDLE, Format.ARCHIVE):
        from headway.bundles.bundle import Bundle
        from headway.cli.bundle import show

        show(Bundle.open(file))
    else:
        _show(about)


def _view(file: Path) -> None:
    """Serve the file to a browser on this machine until Ctrl-C."""
    import importlib

    from headway.core.errors import MissingDependencyError

    try:
        netron = importlib.import_module("netron")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("Netron is not installed", where="--view", remedy="pip install netron") from error
    host, port = netron.start(str(file), address=("127.0.0.1", 0))  # reached from this machine alone
    out().print(f"{file} is at http://{host}:{port} until Ctrl-C", markup=False, soft_wrap=True)
    netron.wait()


def _about(file: Path, found: "Format") -> dict[str, Any]:
    from headway.runtimes.formats import Format

    size = {} if file.is_dir() else {"size": file.stat().st_size}
    if found in (Format.BUNDLE, Format.ARCHIVE):
        from headway.bundles.bundle import Bundle
        from headway.cli.bundle import summary

        return size | {"bundle": summary(Bundle.open(file))}
    if found is Format.ONNX:
        return size | _onnx(file)
    if found is Format.SAFETENSORS:
        return size | _safetensors(file)
    if found is Format.NPZ:
        return size | _npz(file)
    return size


def _onnx(file: Path) -> dict[str, Any]:
    from headway.runtimes.onnx_file import read_onnx
    from headway.runtimes.onnx_weights import read_health

    about = read_onnx(file)
    values = [(kind, value) for kind, row in (("input", about.inputs), ("output", about.outputs)) for value in row]
    return {
        "ir_version": about.ir_version,
        "producer": about.producer,
        "graph": about.graph,
        "opsets": {domain or "ai.onnx": version for domain, version in sorted(about.opsets.items())},
        "operators": dict(about.operators.most_common()),
        "parameters": about.parameters,
        "precision": about.precision,
        "external_data": len(about.external),
        "weights": read_health(file).document(),
        "tensors": [
            {"kind": kind, "name": value.name, "datatype": value.datatype, "shape": list(value.shape or ())}
            for kind, value in values
        ],
    }


def _safetensors(file: Path) -> dict[str, Any]:
    from headway.runtimes.safetensors_file import read_safetensors

    tensors = read_safetensors(file)
    return {
        "parameters": sum(tensor.elements for tensor in tensors),
        "nan": sum(tensor.nan for tensor in tensors),
        "infinite": sum(tensor.infinite for tensor in tensors),
        "tensors": [
            {"name": t.name, "datatype": t.dtype, "shape": list(t.shape), "nan": t.nan, "infinite": t.infinite}
            for t in tensors
        ],
    }


def _npz(file: Path) -> dict[str, Any]:
    from headway.bundles.npz import read_npz

    return {
        "tensors": [
            {"name": name, "datatype": str(value.dtype), "shape": list(value.shape)}
            for name, value in read_npz(file).items()
        ]
    }


def _show(about: dict[str, Any]) -> None:
    tensors, weights = about.get("tensors", []), about.get("weights", {})
    hidden = ("file", "format", "title", "tensors", "weights")
    facts = [(key, _line(value)) for key, value in about.items() if key not in hidden]
    facts += [(f"weights: {key}", value) for key, value in weights.items() if key != "tensors"]
    table("", ["", ""], facts)
    if tensors:
        out().print()
        columns = list(tensors[0])
        table("", columns, [[tensor[column] for column in columns] for tensor in tensors[:_SHOWN]])
    if troubled := [row for row in weights.get("tensors", []) if _is_troubled(row)]:
        out().print()
        columns = ["name", "operator", "shape", "nan", "infinite", "channels", "dead", "largest", "times_median"]
        table("weights to look at", columns, [[row[column] for column in columns] for row in troubled[:_SHOWN]])
    if len(tensors) > _SHOWN:
        out().print(f"and {len(tensors) - _SHOWN} more; --json lists all")


def _is_troubled(weight: dict[str, Any]) -> bool:
    return bool(weight["nan"] or weight["infinite"] or weight["dead"] or weight["times_median"])


def _line(value: object) -> object:
    return ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else value
