"""Tensors as JSON: flat or nested lists of numbers, booleans or texts."""

import math
from binascii import a2b_base64
from typing import Any

import numpy as np

from headway.core.errors import RequestError
from headway.core.tensors import Array, DataType, TensorSpec
from headway.serve.binary_tensors import as_bytes

_PART = 1 << 14  # elements


def from_json(data: object, kind: DataType, shape: tuple[int, ...], where: str) -> Array:
    """The tensor, if `data` is one of this datatype and shape. Raises `RequestError`."""
    if not isinstance(data, list):
        raise RequestError("has neither a list of data nor binary_data_size", where=where)
    if kind.name in ("FP16", "BF16"):
        raise RequestError(f"{kind.name} travels only as binary data", where=where)
    value = _texts(data, where) if kind.name == "BYTES" else _numbers(data, kind, where)
    if value.size != math.prod(shape) or (value.ndim > 1 and value.shape != shape):
        raise RequestError(f"the data has shape {list(value.shape)}, not {list(shape)}"[:300], where=where)
    return value.reshape(shape)


def _texts(data: list[Any], where: str) -> Array:
    flat: list[bytes] = []
    waiting = [iter(data)]
    while waiting:
        for item in waiting[-1]:
            if isinstance(item, list):
                waiting.append(iter(item))
                break
            flat.append(_bytes(item, where))
        else:
            waiting.pop()
    found = np.empty(len(flat), dtype=object)
    found[:] = flat
    return found


def _bytes(item: object, where: str) -> bytes:
    """A text, or what is no text as `{"b64": "..."}`, which is TensorFlow Serving's form."""
    try:
        if isinstance(item, str):
            return item.encode()
        if isinstance(item, dict) and isinstance(item.get("b64"), str) and len(item) == 1:
            return a2b_base64(item["b64"], strict_mode=True)
    except UnicodeEncodeError:
        raise RequestError("half a surrogate pair is no text", where=where) from None
    except ValueError as error:  # what is no base64, and what is not even ASCII
        raise RequestError(f"not base64: {error}", where=where) from None
    raise RequestError('BYTES data must be text, or {"b64": "..."}', where=where)


def _numbers(data: list[Any], kind: DataType, where: str) -> Array:
    try:
        given = _array(data)
    except (ValueError, OverflowError, RecursionError):
        raise RequestError("the data is ragged, too deep, or a number is too large", where=where) from None
    dtype = np.dtype(kind.numpy)
    if dtype == np.uint64 and given.dtype.kind == "f":
        given = _whole(data, given, where)
    fits = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if (given.size and given.dtype.kind not in fits) or (dtype.kind != "b" and _holds_truth(data)):
        raise RequestError(f"the data must be {kind.name} numbers throughout", where=where)
    with np.errstate(over="ignore"):
        value = given.astype(dtype)
    sound = np.isfinite(value) if dtype.kind == "f" else value == given
    if not sound.all():
        raise RequestError(f"a number is out of the range of {kind.name}", where=where)
    return value


def _array(data: list[Any]) -> Array:
    """What numpy makes of it; a long list in parts, between which other threads run."""
    if len(data) <= _PART:
        return np.asarray(data)
    return np.concatenate([np.asarray(data[start : start + _PART]) for start in range(0, len(data), _PART)])


def _holds_truth(data: list[Any]) -> bool:
    """Whether there is a true or false, which numpy takes for 1 or 0 among numbers."""
    kinds = set(map(type, data))
    return bool in kinds or (list in kinds and any(map(_holds_truth, data)))


def _whole(data: list[Any], rounded: Array, where: str) -> Array:
    """The same numbers as UINT64, if they are whole: where one needs the 64th bit, numpy may read all as floats."""
    exact = np.asarray(data, dtype=object)
    if not all(type(number) is int for number in exact.flat):
        return rounded
    try:
        return exact.astype(np.uint64)
    except OverflowError:
        raise RequestError("a number is out of the range of UINT64", where=where) from None


def to_json(spec: TensorSpec, value: Array) -> list[Any]:
    """An output's elements in one flat list. Raises `RequestError` where JSON cannot carry them."""
    where = f"output {spec.name!r}"
    remedy = 'Ask for it with "parameters": {"binary_data": true}.'
    if spec.datatype in ("FP16", "BF16"):
        raise RequestError(f"{spec.datatype} travels only as binary data", where=where, remedy=remedy)
    if spec.datatype == "BYTES":
        try:
            return [as_bytes(item).decode() for item in value.flat]
        except UnicodeDecodeError:
            raise RequestError("it is not UTF-8, so JSON cannot carry it", where=where, remedy=remedy) from None
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise RequestError("it holds NaN or infinity, which JSON cannot carry", where=where, remedy=remedy)
    flat: list[Any] = value.ravel().tolist()
    return flat
