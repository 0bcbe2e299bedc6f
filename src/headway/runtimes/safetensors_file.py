"""What a safetensors file holds, read without the safetensors package.

The format (https://huggingface.co/docs/safetensors): eight bytes, the header's length N, little-endian; N bytes of
JSON, name -> dtype, shape, data_offsets; then the tensors' bytes, without holes.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headway.core.errors import FormatError

_MAX_HEADER = 100_000_000
_CHUNK = 1 << 22  # elements looked at together

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
# Of a floating-point type: its bits as a whole number, the exponent's mask and the fraction's.
_FLOATS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000, 0x000F_FFFF_FFFF_FFFF),
    "F32": ("<u4", 0x7F80_0000, 0x007F_FFFF),
    "C64": ("<u4", 0x7F80_0000, 0x007F_FFFF),
    "F16": ("<u2", 0x7C00, 0x03FF),
    "BF16": ("<u2", 0x7F80, 0x007F),
    "F8_E5M2": ("<u1", 0x7C, 0x03),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor; `start` and `end` are bytes from the file's start. `nan` and `infinite` count elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    nan: int = 0
    infinite: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_safetensors(path: Path) -> tuple[Tensor, ...]:
    """The tensors of a file, in the order of their bytes, with counts of what is not finite.

    Raises:
        FormatError: truncated, or a header that does not fit the bytes.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER, size - 8):
                raise FormatError(f"the header should have {length} bytes: the file is truncated", where=str(path))
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("it is no JSON object")
        tensors = sorted(_tensors(header, 8 + length), key=lambda tensor: (tensor.start, tensor.end))
    except (struct.error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"not a sound safetensors header: {error}", where=str(path)) from error
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise FormatError(f"{tensor.name}: its bytes overlap others or leave a hole", where=str(path))
        end = tensor.end
    if end != size:
        raise FormatError(f"{size} bytes, but the header speaks of {end}: truncated or damaged", where=str(path))
    return tuple(_counted(path, tensor) for tensor in tensors)


def _tensors(header: dict[str, Any], base: int) -> list[Tensor]:
    found = []
    for name, about in header.items():
        if name == "__metadata__":
            continue
        shape, (start, end) = tuple(about["shape"]), about["data_offsets"]
        numbers = (*shape, start, end)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"{name}: shape and offsets must be whole numbers")
        bits = math.prod(shape) * _BITS[about["dtype"]]
        if bits != (end - start) * 8:
            raise ValueError(f"{name}: {about['dtype']} of shape {list(shape)} does not take {end - start} bytes")
        found.append(Tensor(name, about["dtype"], shape, base + start, base + end))
    return found


def _counted(path: Path, tensor: Tensor) -> Tensor:
    """The tensor with what is not finite counted: an exponent of ones, and a fraction of zero for infinity."""
    if tensor.dtype not in _FLOATS or tensor.start == tensor.end:
        return tensor
    code, exponent, fraction = _FLOATS[tensor.dtype]
    dtype = np.dtype(code)
    count = (tensor.end - tensor.start) // dtype.itemsize
    nan = infinite = 0
    with path.open("rb") as file:
        file.seek(tensor.start)
        while count > 0:
            bits = np.fromfile(file, dtype, min(count, _CHUNK))
            if not bits.size:
                raise FormatError("truncated while it was read", where=str(path))
            count -= bits.size
            odd = bits[(bits & dtype.type(exponent)) == exponent]
            zero = int(np.count_nonzero((odd & dtype.type(fraction)) == 0))
            infinite += zero
            nan += odd.size - zero
    return Tensor(tensor.name, tensor.dtype, tensor.shape, tensor.start, tensor.end, nan, infinite)
