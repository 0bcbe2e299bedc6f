"""What a request states in the same words on every wire: each a stranger's value, checked. All raise `RequestError`."""

from collections.abc import Container, Sequence
from typing import TypeGuard

from headway.core.errors import RequestError
from headway.core.tensors import DataType, datatype
from headway.serve.errors import UnsupportedError

_MAX_TENSORS = 1024  # a body of a few MB could otherwise ask for a hundred thousand of them
_MAX_DIMS = 32
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end", "shared_memory_region")


def check_names(names: Sequence[str], what: str) -> None:
    """They differ, and there are not too many."""
    if len(names) > _MAX_TENSORS:
        raise RequestError(f"{len(names)} entries; at most {_MAX_TENSORS} are read", where=what)
    if len(names) > 1 and len(set(names)) != len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise RequestError(f"{twice[:100]!r} stands twice", where=what)


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


def read_classes(value: object) -> int:
    """How many classes an output is to be answered as; 0 for the output itself."""
    if not is_count(value):
        raise RequestError("must be a whole number", where="classification")
    return value


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
    if not isinstance(value, list) or len(value) > _MAX_DIMS or not all(is_count(dim) and dim for dim in value):
        raise RequestError(f"shape must be a list of at most {_MAX_DIMS} positive whole numbers", where=where)
    return tuple(value)
