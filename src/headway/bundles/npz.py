"""Arrays by name in a numpy `.npz`, read with nothing unpickled and no more memory taken than the file may ask for."""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headway.core.errors import FormatError
from headway.core.tensors import Array

_MAX_ARRAYS = 1024
MAX_BYTES = 1 << 30


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays, uncompressed; the same arrays give the same bytes.

    Raises:
        FormatError: an array holds Python objects other than text or bytes.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(_without_objects(name, value)), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())


def read_npz(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Read arrays by name; text and bytes come back as arrays of objects.

    Args:
        path: a file that `numpy.savez` or `numpy.savez_compressed` wrote.
        max_bytes: that all arrays together may take.

    Raises:
        FormatError: not such a file, damaged, holding Python objects, or larger than allowed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_ARRAYS or sum(member.file_size for member in members) > max_bytes:
                raise FormatError(f"more than {_MAX_ARRAYS} arrays or {max_bytes / 1e6:.0f} MB", where=str(path))
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) != len(names):
                raise FormatError("two arrays have the same name", where=str(path))
            return {
                name: _array(archive.read(member), f"{path}: {name}")
                for name, member in zip(names, members, strict=True)
            }
    except FileNotFoundError as error:
        raise FormatError("no such file", where=str(path), remedy="Check the path.") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, OSError, zlib.error) as error:
        raise FormatError(f"cannot be read as a numpy .npz file: {error}", where=str(path)) from error


def _array(data: bytes, where: str) -> Array:
    """One `.npy`. The header is held against the bytes that are there before anything is allocated."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f".npy version {version}")
    except Exception as error:  # numpy lets errors of the parsers through that it tries on a header
        raise FormatError(f"not a numpy array: {' '.join(str(error).split())[:200]}", where=where) from error
    if dtype.hasobject:
        raise FormatError("holds pickled Python objects, which are never loaded", where=where)
    if dtype.kind not in "biufcSU":
        raise FormatError(f"{dtype} is no datatype of tensors", where=where)
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise FormatError(f"the header says {dtype} of shape {shape}, but the bytes do not fit it", where=where)
    stream.seek(0)
    try:
        array: Array = np.load(stream, allow_pickle=False)
    except ValueError as error:
        raise FormatError(f"not a numpy array: {error}", where=where) from error
    return array.astype(object) if array.dtype.kind in "SU" else array


def _without_objects(name: str, value: Array) -> Array:
    if value.dtype.kind != "O":
        return value
    kinds = {type(item) for item in value.flat}
    if kinds <= {str}:
        return value.astype(np.str_)
    if kinds <= {bytes}:
        return value.astype(np.bytes_)
    raise FormatError("an array of Python objects cannot be stored", where=name)
