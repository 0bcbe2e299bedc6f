"""What a request states in the same words on every wire: each a stranger's value, checked. All raise `RequestError`."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from headway.core.errors import RequestError
from headway.core.tensors import DataType, datatype
from headway.serve.errors import TooLargeError, UnsupportedError

MAX_DIMS = 32
_MOST_TEXTS = 1 << 20  # BYTES elements of one request: Python reads one by one, 2-3 million a second
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True, eq=False)  # by identity: it is part of a cache's key
class RequestLimits:
    """How much one request may bring and ask for. A body of a few MB could ask for a hundred thousand outputs.

    Attributes:
        json_bytes: JSON takes some ten times its size in memory.
        json_depth: levels of lists and objects.
        tensors: inputs, and outputs.
    """

    json_bytes: int = 16 << 20
    json_depth: int = 64
    tensors: int = 1024


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a shared memory region that a tensor's bytes lie in, or go to; offset and size in bytes."""

    region: str
    offset: int
    size: int


def check_names(names: Sequence[str], what: str, most: int) -> None:
    """They differ, and there are not too many."""
    if len(names) > most:
        raise RequestError(f"{len(names)} entries; at most {most} are read", where=what)
    if len(names) > 1 and len(set(names)) != len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise RequestError(f"{twice[:100]!r} stands twice", where=what)


def check_texts(count: int) -> None:
    """So many BYTES elements may stand in one request."""
    if count > _MOST_TEXTS:
        raise TooLargeError(f"{count} elements of BYTES"[:100] + f"; at most {_MOST_TEXTS} are read")


def read_id(value: object) -> str:
    """The request's id, of the caller's choosing."""
    if not isinstance(value, str) or len(value) > 1000:
        raise RequestError("must be text of at most 1000 characters", where="id")
    return value


def read_timeout(value: object) -> float | None:
    """Microseconds on the wire, 0 for none; seconds here."""
    if not is_count(value):
        raise RequestError("must be a whole number of microseconds", where="timeout")
    return value / 1e6 if value else None


def read_priority(value: object) -> int:
    """1 is the highest, 0 the server's default."""
    if not is_count(value):
        raise RequestError("must be a whole number", where="priority")
    return value


def read_classes(value: object) -> int:
    """How many classes an output is to be answered as; 0 for the output itself."""
    if not is_count(value):
        raise RequestError("must be a whole number", where="classification")
    return value


def read_slice(parameters: Mapping[str, object], where: str) -> Slice | None:
    """Where in shared memory a tensor's bytes are; None where they are not."""
    region, size = parameters.get("shared_memory_region"), parameters.get("shared_memory_byte_size")
    if region is None and size is None:
        return None
    if not isinstance(region, str) or not region:
        raise RequestError("must be the name of a region", where=f"{where}: shared_memory_region")
    if not is_count(size) or not size:
        raise RequestError("must be a positive whole number", where=f"{where}: shared_memory_byte_size")
    offset = parameters.get("shared_memory_offset", 0)
    if not is_count(offset):
        raise RequestError("must be a whole number", where=f"{where}: shared_memory_offset")
    return Slice(region, offset, size)


def is_count(value: object) -> TypeGuard[int]:
    """A whole number from 0 that 64 bits hold."""
    return type(value) is int and 0 <= value < 1 << 63


def refuse_unsupported(parameters: Container[str], what: str) -> None:
    """Raise `UnsupportedError` for a parameter of the protocol that this server does not offer."""
    for name in _UNSUPPORTED:
        if name in parameters:
            raise UnsupportedError(f"the parameter {name!r} is not supported", where=what)


def read_kind(name: object, where: str) -> DataType:
    """The datatype called so."""
    if not isinstance(name, str) or not name:
        raise RequestError("has no datatype", where=where)
    try:
        return datatype(name)
    except RequestError as error:
        raise RequestError(error.message[:300], where=where) from None


def read_shape(value: object, where: str) -> tuple[int, ...]:
    """A shape that holds something."""
    if not isinstance(value, list) or len(value) > MAX_DIMS or not all(is_count(dim) and dim for dim in value):
        raise RequestError(f"shape must be a list of at most {MAX_DIMS} positive whole numbers", where=where)
    return tuple(value)
