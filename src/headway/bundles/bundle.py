"""A bundle: the sealed folder that is served. Nothing in it is ever executed or unpickled."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headway.bundles.cache import cache_folder, cached
from headway.bundles.golden import Sample, read_sample
from headway.bundles.manifest import SCHEMA_VERSION, Manifest, Variant
from headway.bundles.paths import check_path, contents
from headway.bundles.processing import golden_path
from headway.bundles.signing import SIGNATURE, check_signature, check_trust
from headway.core.errors import BundleError, FormatError, TamperedError
from headway.core.files import digest_file, is_file, is_folder

MANIFEST = "manifest.json"
REPORT = "report.html"
_MAX_MANIFEST_BYTES = 64 << 20


class Bundle:
    """A bundle that was opened: its manifest is read and fits, its files are not hashed yet (`verify` does that).

    Attributes:
        path: the folder.
        manifest: what the bundle says of itself.
        digest: SHA-256 of `manifest.json`, which holds the checksums of every other file: the bundle's identity.
    """

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    def __repr__(self) -> str:
        return f"Bundle({self.manifest.name}:{self.manifest.version}, {str(self.path)!r})"

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open a folder, or a `.hw` archive, which is unpacked into a private cache keyed by its content.

        Raises:
            BundleError: no bundle, a manifest that does not fit, a path that leaves the bundle, a symbolic link.
        """
        path = Path(path)
        if is_file(path):
            from headway.bundles.archive import unpack

            path = unpack(path)
        if not is_folder(path):
            raise BundleError("no such bundle", where=str(path), remedy="Give a bundle's folder or its .hw file.")
        path = path.resolve()
        if not (path / MANIFEST).is_file():
            what = "manifest.json is not a file" if (path / MANIFEST).exists() else "it has no manifest.json"
            raise BundleError(f"not a bundle: {what}", where=str(path))
        contents(path)
        manifest, digest = _read_manifest(path / MANIFEST)
        return cls(path, manifest, digest)

    def verify(self, *, public_key: Path | None = None, trust_any: bool = False) -> None:
        """Check that this is, byte for byte, what was sealed by somebody who is trusted.

        Args:
            public_key: PEM file of the only signer to accept; without it, this machine's key and the trusted ones.
            trust_any: check that nothing changed since the signer sealed it, whoever that is.

        Raises:
            TamperedError: a file is changed, truncated, missing or not listed, or the signature does not hold.
            BundleError: the signer is not trusted.
        """
        where = str(self.path)
        if digest_file(self.path / MANIFEST) != self.digest:
            raise TamperedError("manifest.json changed after it was opened", where=where)
        found = contents(self.path)
        listed = self.manifest.files
        if missing := sorted(set(listed) - set(found)):
            raise TamperedError(f"{missing[0]} is missing", where=where)
        if extra := sorted(set(found) - set(listed) - {MANIFEST, SIGNATURE}):
            raise TamperedError(f"{extra[0]} is not listed in the manifest", where=where)
        for name, record in listed.items():
            if found[name] != record.size:
                raise TamperedError(f"{name} has {found[name]} bytes, but {record.size} were sealed", where=where)
        for name, record in listed.items():
            if digest_file(self.path / name) != record.sha256:
                raise TamperedError(f"{name} is not what was sealed: its checksum differs", where=where)
        try:
            check_signature(self.path, self.manifest.signer, {MANIFEST, *listed})
            if not trust_any:
                check_trust(self.manifest.signer, public_key, where)
        except FormatError as error:
            raise BundleError(error.message, where=error.where, remedy=error.remedy) from error

    def model_file(self, variant: Variant) -> Path:
        """The variant's model file; what else belongs to the model lies beside it."""
        return self.path / variant.file

    def golden(self) -> Iterator[Sample]:
        """The golden samples, one at a time.

        Raises:
            BundleError: a file cannot be read as one.
        """
        for name in self.manifest.golden:
            try:
                yield read_sample(self.path / name)
            except FormatError as error:
                raise BundleError(error.message, where=error.where) from error

    def private_copy(self) -> "Bundle":
        """This bundle in a folder that only this user can write, where nobody changes it between check and load.

        The copy is kept under `HEADWAY_HOME` by digest. It is as (un)verified as this one: call `verify` on it.
        """
        if self.path.parent == cache_folder():
            return self

        def copy(fresh: Path) -> None:
            shutil.copytree(self.path, fresh, symlinks=True, dirs_exist_ok=True)

        return Bundle.open(cached(self.digest, copy, _is_whole))


def _is_whole(folder: Path) -> bool:
    try:
        Bundle.open(folder).verify(trust_any=True)
    except BundleError:
        return False
    return True


def _read_manifest(path: Path) -> tuple[Manifest, str]:
    where = str(path)
    size = path.stat().st_size
    if size == 0:
        raise BundleError("the manifest is empty: the bundle was truncated", where=where)
    if size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest has {size} bytes; at most {_MAX_MANIFEST_BYTES} are read", where=where)
    data = path.read_bytes()
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_float
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the manifest is not valid JSON: {error}", where=where) from error
    if not isinstance(document, dict):
        raise BundleError("the manifest is not a JSON object", where=where)
    _check_schema(document, where)
    try:
        # The document is JSON, so arrays become tuples and text becomes dates, but "1" does not become 1.
        manifest = Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, detail['loc'])) or 'manifest'}: {detail['msg']}" for detail in error.errors()]
        raise BundleError(f"the manifest does not fit: {'; '.join(found[:5])}", where=where) from error
    _check_consistent(manifest, where)
    return manifest, hashlib.sha256(data).hexdigest()


def _check_schema(document: dict[str, Any], where: str) -> None:
    from headway import __version__

    version = document.get("schema_version")
    if type(version) is not int:
        raise BundleError("the manifest names no schema_version", where=where)
    if version == SCHEMA_VERSION:
        return
    lineage = document.get("lineage")
    packages = lineage.get("packages") if isinstance(lineage, dict) else None
    writer = packages.get("headway") if isinstance(packages, dict) else None
    remedy = "Install a newer Headway: pip install --upgrade headway"
    if isinstance(writer, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+]{0,30}", writer):
        remedy = f"It was sealed by Headway {writer}, which reads it: pip install headway=={writer}"
    raise BundleError(
        f"the manifest's schema is version {version}; Headway {__version__} reads version {SCHEMA_VERSION}",
        where=where,
        remedy=remedy,
    )


def _check_consistent(manifest: Manifest, where: str) -> None:
    """What holds between the parts of a manifest; the types have checked each part."""
    for name in manifest.files:
        check_path(name, where)
        if name in {MANIFEST, SIGNATURE}:
            raise BundleError(f"{name} cannot list itself or the signature", where=where)
    ids = [variant.id for variant in manifest.variants]
    if len(set(ids)) != len(ids):
        raise BundleError("two variants have the same id", where=where)
    if manifest.chosen not in ids:
        raise BundleError(f"the chosen variant {manifest.chosen!r} is not among the variants", where=where)
    needed = [*(variant.file for variant in manifest.variants), *manifest.golden]
    if manifest.processing is not None:
        needed += [*manifest.processing.files().values(), *map(golden_path, manifest.processing.inputs)]
    for name in needed:
        if check_path(name, where) not in manifest.files:
            raise BundleError(f"{name!r} is not listed among the files", where=where)
    for variant in manifest.variants:
        for output, allowed in (*variant.tolerance.items(), *variant.own_tolerance.items()):
            if not (math.isfinite(allowed) and allowed >= 0):
                raise BundleError(f"the tolerance of {variant.id}, {output} is {allowed}", where=where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _finite(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value
