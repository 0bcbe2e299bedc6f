"""A model that a user names to look at it: a bundle, or an ONNX file."""

from pathlib import Path
from typing import NamedTuple

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.core.errors import UsageError
from headway.runtimes.formats import Format, recognise, require_whole_onnx
from headway.runtimes.runtime import DEFAULT


class Opened(NamedTuple):
    """One model file.

    Attributes:
        name: the bundle's, or the file's without its suffix.
        runtime: that it was sealed for.
        threads: of a run.
        samples: the bundle's golden ones; a file has none.
    """

    name: str
    file: Path
    runtime: str
    threads: int
    samples: tuple[Sample, ...]


def sealed(path: Path) -> Bundle | None:
    """A copy of the bundle that nobody else changes, verified; None of what is no bundle.

    Raises:
        TamperedError: it is not what was sealed.
        BundleError: it is no sound bundle.
    """
    if recognise(path) not in (Format.BUNDLE, Format.ARCHIVE):
        return None
    bundle = Bundle.open(path)
    bundle.verify(trust_any=True)  # of a changed bundle a sound copy may be kept from before
    copy = bundle.private_copy()
    copy.verify(trust_any=True)  # nothing is loaded that was changed since it was sealed
    return copy


def opened(path: Path, variant: str | None = None) -> Opened:
    """An ONNX file, or a bundle's variant.

    Args:
        path: of the file or the bundle.
        variant: by id; by default the chosen one.

    Raises:
        FormatError: neither of the two.
        TamperedError: the bundle is not what was sealed.
        UsageError: there is no such variant.
    """
    bundle = sealed(path)
    if bundle is None:
        require_whole_onnx(path)
        if variant is not None:
            raise UsageError("an ONNX file has no variants", where=str(path), remedy="Leave --variant out.")
        return Opened(path.stem, path, DEFAULT, 1, ())
    manifest = bundle.manifest
    try:
        chosen = manifest.variant(variant)
    except KeyError:
        remedy = f"It has: {', '.join(each.id for each in manifest.variants)}."
        raise UsageError(f"there is no variant {variant!r}", where=str(path), remedy=remedy) from None
    samples = tuple(bundle.golden())
    return Opened(manifest.name, bundle.model_file(chosen), chosen.runtime, manifest.contract.threads, samples)
