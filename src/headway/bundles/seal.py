"""Sealing: from model files, golden samples and a report to a signed bundle that appears whole or not at all."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from headway.bundles.bundle import MANIFEST, REPORT, Bundle
from headway.bundles.golden import Sample, check_samples, write_sample
from headway.bundles.manifest import Contract, FileRecord, Lineage, Manifest, Variant
from headway.bundles.paths import check_path, contents
from headway.bundles.processing import Prepared, golden_path, write_raw
from headway.bundles.signing import public_key, sign, signing_key
from headway.core.errors import BundleError
from headway.core.files import atomic_folder, digest_file
from headway.core.tensors import TensorSpec
from headway.processing.declaration import Processing


@dataclass(frozen=True)
class Draft:
    """What `Manifest` holds before it is sealed; see there for the fields. `Variant.file` is set by `seal`."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    chosen: str
    labels: tuple[str, ...] = ()
    contract: Contract = field(default_factory=Contract)
    lineage: Lineage = field(default_factory=Lineage)
    padding: dict[str, float] = field(default_factory=dict)


def seal(
    out: Path,
    draft: Draft,
    *,
    models: Mapping[str, Path | Sequence[Path]],
    golden: Sequence[Sample],
    report: str,
    processing: Prepared | None = None,
) -> Bundle:
    """Write a bundle to the folder `out`, signed with this machine's key.

    Args:
        out: takes the place of a bundle that stands there; any other folder that is not empty is refused.
        models: the model file of each variant, by the variant's id; of several files, the one that its runtime is given
            comes first.
        golden: inputs and the original's outputs.
        report: the HTML of `report.html`.
        processing: what is done between a client and the model.

    Raises:
        BundleError: the draft does not fit together, or `out` is something else than a bundle.
        StorageError: `out` cannot be written. Nothing is left behind, and what stood there stays.
    """
    out = Path(out).absolute()
    check_target(out)
    ids = [variant.id for variant in draft.variants]
    if len(set(ids)) != len(ids) or set(models) != set(ids):
        raise BundleError(f"model files {sorted(models)} do not match the variants {ids}", where=draft.name)
    check_samples(golden, [spec.name for spec in draft.inputs], [spec.name for spec in draft.outputs])
    key = signing_key()
    with atomic_folder(out) as fresh:
        variants = tuple(_place(fresh, variant, models[variant.id]) for variant in draft.variants)
        samples = tuple(_golden(fresh, number, sample) for number, sample in enumerate(golden))
        (fresh / REPORT).write_text(report, encoding="utf-8")
        if processing is not None:
            _process(fresh, processing)
        declared = processing.processing if processing is not None else None
        manifest = _manifest(fresh, draft, variants, samples, declared, public_key(key))
        (fresh / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sign(fresh, key)
        Bundle.open(fresh)  # what cannot be read again is not worth sealing
    return Bundle.open(out)


def check_target(out: Path) -> None:
    """Raise `BundleError` if sealing to `out` would replace something that is not a bundle."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise BundleError("is not a folder", where=str(out), remedy="Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise BundleError(
            "the folder holds something else than a bundle", where=str(out), remedy="Choose another --out."
        )


def _place(fresh: Path, variant: Variant, model: Path | Sequence[Path]) -> Variant:
    files = [model] if isinstance(model, Path) else list(model)
    names = [check_path(f"variants/{variant.id}/{file.name}", str(file)) for file in files]
    if len(set(names)) != len(names):
        raise BundleError(f"two model files of {variant.id} have one name", where=str(files[0]))
    (fresh / names[0]).parent.mkdir(parents=True)
    for file, name in zip(files, names, strict=True):
        shutil.copyfile(file, fresh / name)
    return variant.model_copy(update={"file": names[0]})


def _golden(fresh: Path, number: int, sample: Sample) -> str:
    name = f"golden/{number:03}.npz"
    (fresh / name).parent.mkdir(exist_ok=True)
    write_sample(fresh / name, sample)
    return name


def _process(fresh: Path, prepared: Prepared) -> None:
    for name, file in prepared.files.items():
        (fresh / check_path(name, str(file))).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, fresh / name)
    for name, sample in prepared.golden.items():
        write_raw(fresh / golden_path(name), sample)


def _manifest(
    fresh: Path,
    draft: Draft,
    variants: tuple[Variant, ...],
    golden: tuple[str, ...],
    processing: Processing | None,
    signer: str,
) -> Manifest:
    files = {name: FileRecord(sha256=digest_file(fresh / name), size=size) for name, size in contents(fresh).items()}
    try:
        return Manifest(
            name=draft.name,
            version=draft.version,
            created=datetime.now(UTC),
            inputs=draft.inputs,
            outputs=draft.outputs,
            labels=draft.labels,
            processing=processing,
            variants=variants,
            chosen=draft.chosen,
            golden=golden,
            contract=draft.contract,
            lineage=draft.lineage,
            files=files,
            signer=signer,
            padding=draft.padding,
        )
    except ValidationError as error:
        found = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
        raise BundleError("; ".join(found), where=draft.name) from error
