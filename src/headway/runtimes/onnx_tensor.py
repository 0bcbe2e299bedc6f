"""Tensors of an ONNX file, and the file's bytes mapped for reading.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from headway.core.errors import FormatError
from headway.runtimes.wire import Buffer, fields

_EXTERNAL = 1
Found = TypeVar("Found")


class Tensor(NamedTuple):
    """What a tensor says of itself.

    Attributes:
        kind: ONNX datatype number.
        external: its data lies in another file.
        raw: its data, where it is kept as bytes.
    """

    name: str
    kind: int
    dims: tuple[int, ...]
    external: bool
    raw: Buffer | None


def read_tensor(message: Buffer) -> Tensor:
    """One `TensorProto`. Raises `ValueError` where it is none."""
    dims: list[int] = []
    kind, name, external, raw = 0, "", False, None
    for item in fields(message):
        if item.number == 1:
            dims.extend(item.numbers())
        elif item.number == 2:
            kind = item.value
        elif item.number == 8:
            name = item.text
        elif item.number == 9:
            raw = item.message
        elif item.number == 13 or (item.number == 14 and item.value == _EXTERNAL):
            external = True
    return Tensor(name, kind, tuple(dims), external, raw)


def read_mapped(path: Path, read: Callable[[memoryview], Found]) -> Found:
    """What `read` finds in a file's bytes. It keeps no span of them, or the mapping cannot be closed.

    Raises:
        FormatError: there is no such file, it is empty, or `read` raises `ValueError`.
    """
    found, why = None, "the file is empty"
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            found, why = _tried(view, read)
    except ValueError:  # nothing to map
        pass
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path), remedy="Check the path.") from error
    if found is None:
        raise FormatError(f"not an ONNX model: {why}", where=str(path))
    return found


def _tried(view: memoryview, read: Callable[[memoryview], Found]) -> tuple[Found | None, str]:
    """What was found, or why nothing was: an exception would keep spans alive."""
    try:
        return read(view), ""
    except ValueError as error:
        return None, str(error)
