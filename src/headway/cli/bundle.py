"""`headway bundle`: look into bundles, check them, trust their signers, send them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.render import Json, emit, err, out, plain, table

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle
    from headway.bundles.manifest import Variant

app = typer.Typer(help="Inspect, verify, trust, archive, encrypt and decrypt bundles.", no_args_is_help=True)

Given = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder or its .hw file.", show_default=False)]
PublicKey = Annotated[Path | None, typer.Option(help="PEM file of the only signer to accept.", show_default=False)]
Passphrase = Annotated[Path | None, typer.Option(help="File whose first line is the passphrase.", show_default=False)]


@app.command()
def inspect(path: Given, json: Json = False) -> None:
    """Show what a bundle says of itself; nothing is checked but its structure."""
    from headway.bundles.bundle import Bundle

    bundle = Bundle.open(path)
    if json:
        emit(summary(bundle))
    else:
        show(bundle)


@app.command()
def verify(
    path: Given,
    public_key: PublicKey = None,
    trust_any: Annotated[bool, typer.Option("--trust-any", help="Accept any signer, if nothing was changed.")] = False,
    json: Json = False,
) -> None:
    """Check every byte and the signer, and replay the golden samples of each variant that can run here."""
    from headway.bundles.bundle import Bundle
    from headway.bundles.processing import open_processing
    from headway.bundles.signing import fingerprint

    bundle = Bundle.open(path)
    bundle.verify(public_key=public_key, trust_any=trust_any)
    processing = open_processing(bundle)
    replayed = {variant.id: _replayed(bundle, variant) for variant in bundle.manifest.variants}
    signer = fingerprint(bundle.manifest.signer)
    if json:
        emit(
            {
                "verified": True,
                "bundle": str(bundle.path),
                "digest": bundle.digest,
                "signer": signer,
                "variants": replayed,
            }
        )
        return
    out().print(f"{len(bundle.manifest.files)} files are what was sealed, signed by {signer}", soft_wrap=True)
    if processing is not None:
        out().print("processing: golden samples match", soft_wrap=True)
    for name, found in replayed.items():
        if found["replayed"]:
            largest = max(found["differences"].values())
            out().print(f"{name}: golden samples match (largest difference {largest:.3g})", soft_wrap=True)
        else:
            out().print(f"{name}: not replayed: {plain(found['why'])}", markup=False, soft_wrap=True)


@app.command()
def trust(
    source: Annotated[
        Path, typer.Argument(metavar="FILE_OR_BUNDLE", help="PEM public key, or a bundle whose signer is meant.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Accept bundles of this signer from now on, after showing the key's fingerprint."""
    from headway.bundles.bundle import Bundle
    from headway.bundles.signing import fingerprint, read_public_key
    from headway.bundles.signing import trust as store
    from headway.core.files import home
    from headway.runtimes.formats import Format, recognise

    if recognise(source) in (Format.BUNDLE, Format.ARCHIVE):
        bundle = Bundle.open(source)
        bundle.verify(trust_any=True)
        pem = bundle.manifest.signer
    else:
        pem = read_public_key(source)
    err().print(f"SHA-256 of the key: {fingerprint(pem)}\nCompare it with what the signer tells you by another way.")
    if not yes:
        typer.confirm("Trust this signer?", abort=True, err=True)
    stored = store(pem)
    out().print(f"trusted: {stored.relative_to(home())} in {home()}", markup=False, soft_wrap=True)


@app.command()
def key() -> None:
    """Print this machine's public key, made at first use, for others to trust."""
    from headway.bundles.signing import fingerprint, public_key, signing_key

    pem = public_key(signing_key())
    err().print(f"SHA-256: {fingerprint(pem)}")
    out().print(pem, end="", markup=False)


@app.command()
def archive(
    path: Given,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The file to write.", show_default="NAME-VERSION.hw")
    ] = None,
) -> None:
    """Write a bundle as one .hw file: an uncompressed zip of the same folder."""
    from headway.bundles.archive import archive as write
    from headway.bundles.bundle import Bundle

    bundle = Bundle.open(path)
    target = out_file or Path(f"{bundle.manifest.name}-{bundle.manifest.version}.hw")
    write(bundle, target)
    out().print(f"{target}: {target.stat().st_size / 1e6:.3f} MB", markup=False, soft_wrap=True)


@app.command()
def encrypt(
    path: Given,
    recipients: Annotated[
        list[str] | None, typer.Option("--recipient", help="age1... or SSH public key; may be given often.")
    ] = None,
    passphrase_file: Passphrase = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The file to write.", show_default="NAME-VERSION.hw.age")
    ] = None,
) -> None:
    """Encrypt a bundle in the age format, for recipients or under a passphrase."""
    from headway.bundles.bundle import Bundle
    from headway.bundles.encryption import encrypt as write
    from headway.bundles.encryption import read_passphrase

    bundle = Bundle.open(path)
    target = out_file or Path(f"{bundle.manifest.name}-{bundle.manifest.version}.hw.age")
    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    write(bundle, target, recipients=recipients or (), passphrase=passphrase)
    out().print(f"{target}: {target.stat().st_size / 1e6:.3f} MB", markup=False, soft_wrap=True)


@app.command()
def decrypt(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="An encrypted bundle.", show_default=False)],
    identity: Annotated[Path | None, typer.Option(help="File with age or SSH secret keys.", show_default=False)] = None,
    passphrase_file: Passphrase = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The file to write.", show_default="FILE without .age")
    ] = None,
) -> None:
    """Decrypt a bundle to a .hw file, which appears only if all of it is authentic."""
    from headway.bundles.encryption import decrypt as write
    from headway.bundles.encryption import read_passphrase
    from headway.core.errors import UsageError

    target = out_file or path.with_suffix("")
    if target.resolve() == path.resolve() or (out_file is None and path.suffix != ".age"):
        raise UsageError("say where to write the decrypted bundle", where=str(path), remedy="Give --out FILE.hw")
    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    write(path, target, identity=identity, passphrase=passphrase)
    out().print(f"{target}: verify it before use: headway bundle verify {target}", markup=False, soft_wrap=True)


def summary(bundle: "Bundle") -> dict[str, Any]:
    """What `inspect --json` prints."""
    from headway.bundles.signing import fingerprint
    from headway.core.errors import FormatError

    document = bundle.manifest.model_dump(mode="json", exclude={"files", "signer"})
    try:
        signer = fingerprint(bundle.manifest.signer)
    except FormatError:
        signer = "not a public key"
    size_mb = sum(record.size for record in bundle.manifest.files.values()) / 1e6
    return {"path": str(bundle.path), "digest": bundle.digest, "signer": signer, "size_mb": size_mb, **document}


def show(bundle: "Bundle") -> None:
    """What `inspect` prints for people."""
    about = summary(bundle)
    facts = [
        ("model", f"{about['name']}, version {about['version']}"),
        ("created", about["created"]),
        ("digest", about["digest"]),
        ("signer", about["signer"]),
        ("size", f"{about['size_mb']:.3f} MB in {len(bundle.manifest.files)} files"),
        ("task", about["lineage"]["task"] or "none: packed as it stands"),
        ("chosen", about["chosen"]),
    ]
    facts += [("input", f"{s.name} {s.datatype} {list(s.shape)}") for s in bundle.manifest.inputs]
    facts += [("padding", f"{name} with {value:g}") for name, value in bundle.manifest.padding.items()]
    facts += [("output", f"{s.name} {s.datatype} {list(s.shape)}") for s in bundle.manifest.outputs]
    if bundle.manifest.processing is not None:
        facts += bundle.manifest.processing.lines().items()
    table("", ["", ""], facts)
    table(
        "",
        ["variant", "runtime", "precision", "accuracy", "p50 ms", "gate"],
        [_row(v) for v in bundle.manifest.variants],
    )


def _row(variant: "Variant") -> list[object]:
    card = variant.scorecard
    measured = (f"{card.accuracy.value:.4f}", f"{card.latency_ms.p50:.3f}") if card else ("not measured",) * 2
    return [variant.id, variant.runtime, variant.precision, *measured, variant.gate.outcome if variant.gate else "none"]


def _replayed(bundle: "Bundle", variant: "Variant") -> dict[str, Any]:
    """Replay one variant's golden samples, or say why that cannot be done here."""
    from headway.bundles.golden import replay
    from headway.core import plugins
    from headway.core.errors import ConfigError, MissingDependencyError

    try:
        runtime = plugins.load("headway.runtimes", variant.runtime)()
        availability = runtime.available()
        if not availability.ready:
            return {"replayed": False, "why": availability.detail}
        session = runtime.load(bundle.model_file(variant))
    except (ConfigError, MissingDependencyError) as error:
        return {"replayed": False, "why": error.message}
    try:
        return {"replayed": True, "differences": replay(bundle, variant, session)}
    finally:
        session.close()
