"""The idx format of the MNIST family: a magic number, the shape, then unsigned bytes, all big-endian.

Described at the foot of http://yann.lecun.com/exdb/mnist/ ("THE IDX FILE FORMAT"). Only unsigned bytes are read.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError, FormatError

_UNSIGNED_BYTE = 0x08
_MAX_BYTES = 1 << 30  # a gzip bomb or a damaged shape must not fill the memory


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one idx file, plain or gzipped.

    Args:
        path: the file; a name that ends in `.gz` is decompressed.
        dimensions: that the array must have.

    Raises:
        DataError: there is no such file, or it cannot be read.
        FormatError: wrong magic number or shape, or fewer or more bytes than the shape says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"damaged gzip file: {error}", where=str(path)) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise FormatError(f"{len(content)} bytes is too short for an idx file", where=str(path))
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise FormatError(f"not an idx file: begins with {content[:4].hex()}, not {magic.hex()}", where=str(path))
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, 4))
    if math.prod(shape) != len(content) - header:
        raise FormatError(
            f"shape {shape} needs {math.prod(shape):,} bytes of data, the file has {len(content) - header:,}",
            where=str(path),
            remedy="The file is truncated or damaged: fetch it again.",
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
