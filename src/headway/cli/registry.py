"""`headway registry`: bundles by name, version and alias."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.render import Json, emit, out, table

if TYPE_CHECKING:
    from headway.registry.entry import Entry

app = typer.Typer(help="List, show, add, alias and remove registered bundles.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="REF", help="name, name:3 or name@alias.", show_default=False)]


@app.command("list")
def list_(json: Json = False) -> None:
    """Every version of every model."""
    from headway.registry.registry import Registry

    entries = Registry().list()
    if json:
        emit([document(entry) for entry in entries])
    elif entries:
        _table(entries)
    else:
        out().print("the registry is empty; add a bundle: headway registry add BUNDLE")


@app.command()
def show(ref: Reference, json: Json = False) -> None:
    """One model's versions (name), or one version with its lineage (name:3, name@alias)."""
    from headway.registry.registry import Registry

    registry = Registry()
    if ":" not in ref and "@" not in ref:
        entries = registry.show(ref)
        if json:
            emit([document(entry) for entry in entries])
        else:
            _table(entries)
        return
    about = document(registry.resolve(ref)) | {"path": str(registry.open(ref).path)}
    if json:
        emit(about)
    else:
        table("", ["", ""], [(key, _shown(value)) for key, value in about.items()])


@app.command()
def add(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder or .hw file.", show_default=False)],
    version: Annotated[str | None, typer.Option(help="Version to register it under.", show_default="its own")] = None,
    public_key: Annotated[Path | None, typer.Option(help="PEM file of the only signer to accept.")] = None,
    json: Json = False,
) -> None:
    """Verify a bundle and keep a copy under its name."""
    from headway.bundles.bundle import Bundle
    from headway.registry.registry import Registry

    entry = Registry().add(Bundle.open(path), version=version, public_key=public_key)
    if json:
        emit(document(entry))
    else:
        out().print(
            f"registered {entry.name}:{entry.version}; serve it with: headway serve {entry.name}", soft_wrap=True
        )


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    alias_name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as prod.", show_default=False)],
    version: Annotated[
        str | None, typer.Argument(help="The version it is to mean; not with --delete.", show_default=False)
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Forget the alias.")] = False,
    json: Json = False,
) -> None:
    """Point an alias at a version, or forget it."""
    from headway.core.errors import UsageError
    from headway.registry.registry import Registry

    if (version is None) != delete:
        raise UsageError("give either a version or --delete")
    registry = Registry()
    if version is None:
        registry.unalias(name, alias_name)
        about: dict[str, Any] = {"name": name, "alias": alias_name, "version": None}
    else:
        about = {"name": name, "alias": alias_name, "version": registry.alias(name, alias_name, version).version}
    if json:
        emit(about)
    else:
        text = f"{name}@{alias_name} is {name}:{about['version']}" if version else f"{name}@{alias_name} is forgotten"
        out().print(text, markup=False, soft_wrap=True)


@app.command()
def remove(ref: Reference, json: Json = False) -> None:
    """Forget a version and delete its files; its number is not given again."""
    from headway.registry.registry import Registry

    entry = Registry().remove(ref)
    if json:
        emit(document(entry))
    else:
        out().print(f"removed {entry.name}:{entry.version}", soft_wrap=True)


def document(entry: "Entry") -> dict[str, Any]:
    """An entry as JSON."""
    from dataclasses import asdict

    about = asdict(entry)
    return about | {
        "aliases": list(entry.aliases),
        "created": entry.created.isoformat(),
        "added": entry.added.isoformat(),
    }


def _table(entries: "tuple[Entry, ...]") -> None:
    rows = [
        (
            entry.name,
            entry.version,
            ", ".join(entry.aliases),
            entry.chosen,
            "not measured" if entry.accuracy is None else f"{entry.accuracy:.4f}",
            f"{entry.added:%Y-%m-%d %H:%M}",
            entry.digest[:12],
        )
        for entry in entries
    ]
    table("", ["name", "version", "aliases", "chosen", "accuracy", "added (UTC)", "digest"], rows)


def _shown(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else value
