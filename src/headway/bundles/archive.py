"""`.hw`: a bundle's folder as an uncompressed zip, so that one file can be sent and any tool can look inside."""

import hashlib
import shutil
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from headway.bundles.bundle import MANIFEST, Bundle
from headway.bundles.cache import cached
from headway.bundles.paths import MAX_FILES, check_path, contents
from headway.core.errors import BundleError
from headway.core.files import atomic_file

AGE_MAGIC = b"age-encryption.org/"
_ZIP_MAGIC = b"PK\x03\x04"
_ENCRYPTED_FLAG = 0x1
_SPARE_BYTES = 64 << 20  # left free on the disk


def archive(bundle: Bundle, out: Path) -> Path:
    """Write `bundle` to the file `out`; the same bundle gives the same bytes.

    Raises:
        StorageError: `out` cannot be written.
    """
    with atomic_file(out) as fresh, zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as packed:
        # The manifest comes first: it tells what the file is within the first bytes.
        for name in sorted(contents(bundle.path), key=lambda name: (name != MANIFEST, name)):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            with (bundle.path / name).open("rb") as source, packed.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return out


def unpack(path: Path) -> Path:
    """Unpack a `.hw` into the private cache, once for each content, and give back the folder.

    Raises:
        BundleError: not such an archive, damaged, or one that would write outside, twice, or more than the disk holds.
    """
    with path.open("rb") as file:
        if file.read(len(AGE_MAGIC)) == AGE_MAGIC:
            raise BundleError(
                "the bundle is encrypted", where=str(path), remedy=f"Run: headway bundle decrypt {path} --identity FILE"
            )
        file.seek(0)
        if not _ZIP_MAGIC.startswith(file.read(len(_ZIP_MAGIC))):  # fewer bytes are a truncated archive
            raise BundleError(
                "not a bundle: neither a folder nor a .hw archive",
                where=str(path),
                remedy=f"A model file is sealed with: headway pack {path} --name NAME",
            )
        file.seek(0)
        key = f"hw-{hashlib.file_digest(file, 'sha256').hexdigest()}"
        try:
            return cached(key, lambda fresh: _unpack(file, fresh, str(path)), lambda folder: _fits(file, folder))
        except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
            raise BundleError(
                f"cannot be read as a .hw archive: {error}", where=str(path), remedy="Is the file complete?"
            ) from error


def _fits(file: BinaryIO, folder: Path) -> bool:
    """Whether an unpacked folder still has the archive's files in their sizes."""
    with zipfile.ZipFile(file) as packed:
        return contents(folder) == {e.filename: e.file_size for e in packed.infolist() if not e.is_dir()}


def _unpack(file: BinaryIO, fresh: Path, where: str) -> None:
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as packed:
        entries = _checked(packed.infolist(), size, where)
        if MANIFEST not in entries:
            raise BundleError("not a bundle: it has no manifest.json", where=where)
        needed = sum(entry.file_size for entry in entries.values())
        free = shutil.disk_usage(fresh).free
        if needed + _SPARE_BYTES > free:
            raise BundleError(f"unpacks to {needed / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free", where=where)
        for name, entry in entries.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            with packed.open(entry) as source, (fresh / name).open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _checked(entries: list[zipfile.ZipInfo], size: int, where: str) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name. The names of folders are dropped: files make their own."""
    # Golden samples are zip files as well: the end of one, in a truncated archive, passes for the archive's own.
    if not entries or min(entry.header_offset for entry in entries) != 0:
        raise zipfile.BadZipFile("its first bytes belong to no entry")
    if len(entries) > MAX_FILES:
        raise BundleError(f"more than {MAX_FILES} entries", where=where)
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.orig_filename
        check_path(name.removesuffix("/"), where)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BundleError(f"{name} is a symbolic link or a special file", where=where)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise BundleError(f"{name} is compressed; a .hw archive is not", where=where)
        if entry.flag_bits & _ENCRYPTED_FLAG:
            raise BundleError(f"{name} is encrypted", where=where)
        if name in found:
            raise BundleError(f"{name} stands twice", where=where)
        if not name.endswith("/"):
            found[name] = entry
    folders = {parent.as_posix() for name in found for parent in Path(name).parents}
    if both := sorted(folders & set(found)):
        raise BundleError(f"{both[0]} is both a file and a folder", where=where)
    if sum(entry.file_size for entry in found.values()) > size:
        raise BundleError("its entries overlap: they add up to more than the archive", where=where)
    return found
