"""Tensors as bytes: little-endian and row-major; a BYTES element is a u32 length and that many bytes.

Source: Triton `docs/protocol/extension_binary_data.md`; the raw contents of gRPC requests are the same bytes.

Every length and shape was written by a stranger: each is checked against the bytes that are there before anything is
allocated from it.
"""

import math
import struct
from collections.abc import Sequence

import numpy as np

from headway.core.errors import RequestError
from headway.core.tensors import DATATYPES, DYNAMIC, Array, DataType, TensorSpec, datatype
from headway.serve.errors import UnsupportedError

_U32 = struct.Struct("<I")
_WIRE = {row.name: np.dtype(row.numpy).newbyteorder("<") for row in DATATYPES if row.numpy}


def check_size(size: int, kind: DataType, shape: tuple[int, ...], where: str) -> None:
    """A blob's size against its shape; for BYTES it is checked with its elements."""
    if kind.name == "BF16":
        raise UnsupportedError("BF16 is not supported", where=where)
    wanted = math.prod(shape) * kind.size
    if kind.size and size != wanted:
        raise RequestError(f"{size} bytes, but shape {list(shape)} of {kind.name} takes {wanted}"[:300], where=where)


def from_blob(body: bytes, start: int, size: int, kind: DataType, shape: tuple[int, ...], where: str) -> Array:
    """The tensor in `size` bytes of `body` from `start`; of fixed-size elements a view. To be checked before."""
    if kind.name == "BYTES":
        return _elements(body[start : start + size], math.prod(shape), where).reshape(shape)
    count = size // kind.size
    if kind.name == "BOOL":  # any byte but 0 is true, and a bool must hold 0 or 1
        truth: Array = np.frombuffer(body, "u1", count, start) != 0
        return truth.reshape(shape)
    return np.frombuffer(body, _WIRE[kind.name], count, start).reshape(shape)


def _elements(blob: bytes, count: int, where: str) -> Array:
    """BYTES: `count` elements, each with its length before it."""
    if count * _U32.size > len(blob):
        raise RequestError(f"{len(blob)} bytes cannot hold {count} elements"[:300], where=where)
    found = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        if at + _U32.size > len(blob):
            raise RequestError(f"the bytes end before element {index}", where=where)
        (length,) = _U32.unpack_from(blob, at)
        at += _U32.size
        if at + length > len(blob):
            raise RequestError(f"element {index} says {length} bytes, past the end", where=where)
        found[index] = blob[at : at + length]
        at += length
    if at != len(blob):
        raise RequestError(f"{len(blob) - at} bytes follow the last element", where=where)
    return found


def raw_input(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """A body that is one input's bytes alone: batch 1, and at most one other dimension that varies."""
    if len(specs) != 1:
        raise RequestError(f"a raw request brings one input, and this model has {len(specs)}")
    spec = specs[0]
    kind, where = datatype(spec.datatype), f"input {spec.name!r}"
    shape = [1 if spec.batched and axis == 0 else dim for axis, dim in enumerate(spec.shape)]
    if kind.name == "BYTES":
        if math.prod(shape) != 1:
            raise RequestError("a raw request brings one BYTES element", where=where)
        return {spec.name: _elements(_U32.pack(len(body)) + body, 1, where).reshape(shape)}
    open_axes = [axis for axis, dim in enumerate(shape) if dim == DYNAMIC]
    if len(open_axes) > 1:
        raise RequestError("more than one dimension varies: send a JSON header", where=where)
    if open_axes:
        row = kind.size * math.prod(dim for dim in shape if dim != DYNAMIC)
        shape[open_axes[0]] = len(body) // row if row else 0
    check_size(len(body), kind, tuple(shape), where)
    return {spec.name: from_blob(body, 0, len(body), kind, tuple(shape), where)}


def to_blob(spec: TensorSpec, value: Array) -> bytes:
    """An output's bytes."""
    if spec.datatype == "BYTES":
        return b"".join(_U32.pack(len(item)) + item for item in map(as_bytes, value.flat))
    return np.asarray(value, _WIRE[spec.datatype]).tobytes()


def as_bytes(item: object) -> bytes:
    """An element of a BYTES tensor; runtimes also hand out `str`."""
    return item if isinstance(item, bytes) else str(item).encode()
