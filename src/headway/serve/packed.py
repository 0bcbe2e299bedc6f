"""An answer as one `bytes` object: nobody can write to it, its size is exact, and the garbage collector passes it by.

The last is why. 80,000 answers as dictionaries of arrays made a full collection, which stops every request, 60 ms long;
as `bytes` in plain dictionaries they add 3 ms.

Layout: a header's length (u32); the header, JSON of (name, dtype, shape, start, size) for each output; the contents,
each from a multiple of 8 bytes. Elements of text are a length (u32) and that many bytes.
"""

import json
import struct
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from headway.core.tensors import Array
from headway.serve.binary_tensors import as_bytes

_U32 = struct.Struct("<I")
_Layout = tuple[tuple[str, str, tuple[int, ...], int, int], ...]


def pack(outputs: Mapping[str, Array]) -> bytes:
    """A copy of the outputs: rows of a run are views of its whole output, and would keep all of it alive."""
    layout, pieces, start = [], [], 0
    for name, value in outputs.items():
        text = value.dtype.kind in "OSU"
        content = _joined(value) if text else value.tobytes()
        layout.append((name, "O" if text else value.dtype.str, value.shape, start, len(content)))
        pieces += [content, bytes(-len(content) % 8)]
        start += len(content) + len(pieces[-1])
    return b"".join((_header(tuple(layout)), *pieces))


def unpack(packed: bytes) -> dict[str, Array]:
    """The outputs, read-only; elements of text are `bytes`, other contents are views."""
    (length,) = _U32.unpack_from(packed)
    first = _U32.size + length
    found = {}
    for name, dtype, shape, start, size in _layout(packed[_U32.size : first]):
        if dtype == "O":
            value: Array = _elements(packed, first + start, size, shape)
        else:
            kind = np.dtype(dtype)
            value = np.frombuffer(packed, kind, size // kind.itemsize, first + start).reshape(shape)
        value.flags.writeable = False
        found[name] = value
    return found


def read_only(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Views of the outputs that nobody can write to."""
    found = {name: value.view() for name, value in outputs.items()}
    for value in found.values():
        value.flags.writeable = False
    return found


def _joined(value: Array) -> bytes:
    return b"".join([_U32.pack(len(item)) + item for item in map(as_bytes, value.flat)])


def _elements(packed: bytes, at: int, size: int, shape: tuple[int, ...]) -> Array:
    end, items = at + size, []
    while at < end:
        (length,) = _U32.unpack_from(packed, at)
        at += _U32.size + length
        items.append(packed[at - length : at])
    found = np.empty(len(items), dtype=object)
    found[:] = items
    return found.reshape(shape)


@lru_cache(maxsize=256)
def _header(layout: _Layout) -> bytes:
    text = json.dumps(layout).encode()
    text += b" " * (-(len(text) + _U32.size) % 8)
    return _U32.pack(len(text)) + text


@lru_cache(maxsize=256)
def _layout(header: bytes) -> _Layout:
    return tuple((name, dtype, tuple(shape), start, size) for name, dtype, shape, start, size in json.loads(header))
