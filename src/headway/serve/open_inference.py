"""The Open Inference Protocol's tensor encodings over HTTP: JSON, binary and raw.

Sources: KServe `open-inference-protocol/specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`. A body is JSON, or a JSON header followed by one blob a binary tensor. Blobs
are little-endian and row-major; a BYTES element is a u32 length and that many bytes.

Every length, count and shape in a body was written by a stranger: each is checked against the bytes that are there
before anything is allocated from it.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, TypeGuard

import numpy as np

from headway.core.errors import RequestError
from headway.core.tensors import DATATYPES, DYNAMIC, Array, DataType, TensorSpec, datatype
from headway.serve.dataplane import InferRequest, InferResponse, OutputRequest
from headway.serve.errors import TooLargeError, UnsupportedError

_MAX_TENSORS = 1024  # a body of a few MB could otherwise ask for a hundred thousand of them
_MAX_DIMS = 32
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end", "classification", "shared_memory_region")
_U32 = struct.Struct("<I")
_WIRE = {row.name: np.dtype(row.numpy).newbyteorder("<") for row in DATATYPES if row.numpy}
_SHORT = 2048  # bytes of a header that is worth remembering


def decode(
    body: bytes, header_length: str | None, specs: Sequence[TensorSpec], *, max_json_bytes: int = 16 << 20
) -> InferRequest:
    """Decode the body of an infer request. Arrays of fixed-size elements are views of `body`.

    Args:
        body: as it was received.
        header_length: the `Inference-Header-Content-Length` header.
        specs: the model's inputs; a raw request (header length 0) has no other description of its bytes.
        max_json_bytes: JSON takes some ten times its size in memory, and time in which nobody else is answered.

    Raises:
        TooLargeError: more JSON than that.
        RequestError: naming what does not fit.
        UnsupportedError: it asks for what this server does not do.
    """
    length = _header_length(header_length, len(body))
    if length == 0 and header_length is not None:
        return InferRequest(_raw_input(body, specs), binary=True)
    if length > max_json_bytes:
        raise TooLargeError(
            f"{length} bytes of JSON; at most {max_json_bytes} are read", remedy="Send the tensors as binary data."
        )
    if length < len(body):
        # A client that sends tensors as binary sends the same few headers over and over.
        header = _read_again(body[:length]) if length <= _SHORT else _read(body[:length])
    else:
        header = _read(body)
    return InferRequest(
        _inputs(header.inputs, body, length), header.outputs, header.binary, header.id, header.timeout_s
    )


def encode(response: InferResponse) -> tuple[bytes, int | None]:
    """Encode an answer.

    Returns:
        The body, and the length of its JSON header where binary tensors follow it (else None).

    Raises:
        RequestError: an output was asked for as JSON that JSON cannot carry.
    """
    if not response.id and all(binary for _, _, binary in response.outputs):
        blobs = [_to_blob(spec, value) for spec, value, _ in response.outputs]
        shapes = tuple([(spec.name, spec.datatype, value.shape) for spec, value, _ in response.outputs])
        header = _binary_header(response.model, response.version, shapes, tuple([len(blob) for blob in blobs]))
        return b"".join((header, *blobs)), len(header)
    blobs, outputs = [], []
    for spec, value, binary in response.outputs:
        if binary:
            blobs.append(_to_blob(spec, value))
            outputs.append(_described(spec.name, spec.datatype, value.shape, len(blobs[-1])))
        else:
            outputs.append(_described(spec.name, spec.datatype, value.shape) | {"data": _to_json(spec, value)})
    header = _head(response.model, response.version, response.id, outputs)
    return (b"".join((header, *blobs)), len(header)) if blobs else (header, None)


# Requests


@dataclass(frozen=True, slots=True)
class _Input:
    """One input as the header describes it: its data, or (`data` None) the size in bytes of its blob."""

    name: str
    kind: DataType
    shape: tuple[int, ...]
    data: Array | None
    size: int

    @property
    def where(self) -> str:
        return f"input {self.name[:100]!r}"


@dataclass(frozen=True, slots=True)
class _Header:
    """A request but for the blobs that follow it."""

    inputs: tuple[_Input, ...]
    outputs: tuple[OutputRequest, ...] | None
    binary: bool
    id: str
    timeout_s: float | None


def _read(text: bytes) -> _Header:
    document = _parse(text)
    parameters = _mapping(document.get("parameters", {}), "parameters")
    _refuse_unsupported(parameters, "the request")
    binary = _flag(parameters.get("binary_data_output", False), "binary_data_output")
    inputs = _tensors(document.get("inputs"), "inputs")
    if not inputs:
        raise RequestError("the request has no inputs", remedy='Send {"inputs": [...]}.')
    outputs = _tensors(document.get("outputs") or [], "outputs")
    return _Header(
        inputs=tuple(_input(entry) for entry in inputs),
        outputs=tuple(_output(entry, binary) for entry in outputs) or None,
        binary=binary,
        id=_id(document.get("id", "")),
        timeout_s=_timeout(parameters.get("timeout", 0)),
    )


_read_again = lru_cache(maxsize=256)(_read)


def _header_length(text: str | None, available: int) -> int:
    if text is None:
        return available
    # int() would also take "+5", " 5", "1_0" and digits of other scripts
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RequestError(f"{text[:30]!r} is not a length", where="Inference-Header-Content-Length")
    length = int(text)
    if length > available:
        raise RequestError(f"{length} bytes, but the body has {available}", where="Inference-Header-Content-Length")
    return length


def _parse(text: bytes) -> dict[str, Any]:
    try:
        document = _decoder.decode(text.decode())
    except RecursionError:
        raise RequestError("the JSON is nested too deeply") from None
    except ValueError as error:  # JSON and UTF-8 errors are both of this kind
        raise RequestError(f"the request is not valid JSON: {error}"[:300]) from None
    return _mapping(document, "the request")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; send it as binary data")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_write = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError("must be a JSON object", where=what)
    return value


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise RequestError("must be true or false", where=what)
    return value


def _id(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise RequestError("must be text of at most 1000 characters", where="id")
    return value


def _timeout(value: object) -> float | None:
    """Microseconds on the wire, 0 for none; seconds here."""
    if not _is_count(value):
        raise RequestError("must be a whole number of microseconds", where="timeout")
    return value / 1e6 if value else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _tensors(value: object, what: str) -> list[dict[str, Any]]:
    """The entries of `inputs` or `outputs`: objects with names that differ."""
    if not isinstance(value, list):
        raise RequestError("must be a list", where=what)
    if len(value) > _MAX_TENSORS:
        raise RequestError(f"{len(value)} entries; at most {_MAX_TENSORS} are read", where=what)
    names = set()
    for number, entry in enumerate(value):
        name = _mapping(entry, f"{what}[{number}]").get("name")
        if not isinstance(name, str):
            raise RequestError("has no name", where=f"{what}[{number}]")
        if name in names:
            raise RequestError(f"{name[:100]!r} stands twice", where=what)
        names.add(name)
    return value


def _refuse_unsupported(parameters: object, what: str) -> None:
    if isinstance(parameters, dict):
        for name in _UNSUPPORTED:
            if name in parameters:
                raise UnsupportedError(f"the parameter {name!r} is not supported", where=what)


def _output(entry: Mapping[str, Any], binary: bool) -> OutputRequest:
    name: str = entry["name"]
    parameters = _mapping(entry.get("parameters", {}), f"output {name[:100]!r}: parameters")
    _refuse_unsupported(parameters, f"output {name[:100]!r}")
    return OutputRequest(name, _flag(parameters.get("binary_data", binary), f"output {name[:100]!r}: binary_data"))


def _input(entry: Mapping[str, Any]) -> _Input:
    name: str = entry["name"]
    where = f"input {name[:100]!r}"
    parameters = _mapping(entry.get("parameters", {}), f"{where}: parameters")
    _refuse_unsupported(parameters, where)
    kind, shape = _kind(entry.get("datatype"), where), _shape(entry.get("shape"), where)
    size = parameters.get("binary_data_size")
    if size is None:
        data = _from_json(entry.get("data"), kind, shape, where)
        data.flags.writeable = False  # a header that is read again shares it
        return _Input(name, kind, shape, data, 0)
    if "data" in entry:
        raise RequestError("has both data and binary_data_size", where=where)
    if not _is_count(size):
        raise RequestError("must be a whole number of bytes", where=f"{where}: binary_data_size")
    _check_size(size, kind, shape, where)
    return _Input(name, kind, shape, None, size)


def _inputs(described: Sequence[_Input], body: bytes, start: int) -> dict[str, Array]:
    """Every input by name; `start` is where the first blob begins."""
    found: dict[str, Array] = {}
    for one in described:
        if one.data is not None:
            found[one.name] = one.data
            continue
        if one.size > len(body) - start:
            raise RequestError(f"{one.size} bytes, but {len(body) - start} are left in the body", where=one.where)
        found[one.name] = _from_blob(body, start, one)
        start += one.size
    if start != len(body):
        raise RequestError(f"{len(body) - start} bytes follow the last tensor")
    return found


def _kind(name: object, where: str) -> DataType:
    if not isinstance(name, str):
        raise RequestError("has no datatype", where=where)
    try:
        return datatype(name)
    except RequestError as error:
        raise RequestError(error.message[:300], where=where) from None


def _shape(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MAX_DIMS or not all(_is_count(dim) and dim for dim in value):
        raise RequestError(f"shape must be a list of at most {_MAX_DIMS} positive whole numbers", where=where)
    return tuple(value)


# Tensors


def _check_size(size: int, kind: DataType, shape: tuple[int, ...], where: str) -> None:
    """A blob's size against its shape; for BYTES it is checked with its elements."""
    if kind.name == "BF16":
        raise UnsupportedError("BF16 is not supported", where=where)
    wanted = math.prod(shape) * kind.size
    if kind.size and size != wanted:
        raise RequestError(f"{size} bytes, but shape {list(shape)} of {kind.name} takes {wanted}"[:300], where=where)


def _from_blob(body: bytes, start: int, one: _Input) -> Array:
    if one.kind.name == "BYTES":
        return _elements(body[start : start + one.size], math.prod(one.shape), one.where).reshape(one.shape)
    count = one.size // one.kind.size
    if one.kind.name == "BOOL":  # any byte but 0 is true, and a bool must hold 0 or 1
        truth: Array = np.frombuffer(body, "u1", count, start) != 0
        return truth.reshape(one.shape)
    return np.frombuffer(body, _WIRE[one.kind.name], count, start).reshape(one.shape)


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


def _from_json(data: object, kind: DataType, shape: tuple[int, ...], where: str) -> Array:
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
            if not isinstance(item, str):
                raise RequestError("BYTES data must be text", where=where)
            try:
                flat.append(item.encode())
            except UnicodeEncodeError:
                raise RequestError("half a surrogate pair is no text", where=where) from None
        else:
            waiting.pop()
    found = np.empty(len(flat), dtype=object)
    found[:] = flat
    return found


def _numbers(data: list[Any], kind: DataType, where: str) -> Array:
    try:
        given = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        raise RequestError("the data is ragged, too deep, or a number is too large", where=where) from None
    dtype = np.dtype(kind.numpy)
    fits = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if given.size and given.dtype.kind not in fits:
        raise RequestError(f"the data must be {kind.name} numbers throughout", where=where)
    with np.errstate(over="ignore"):
        value = given.astype(dtype)
    sound = np.isfinite(value) if dtype.kind == "f" else value == given
    if not sound.all():
        raise RequestError(f"a number is out of the range of {kind.name}", where=where)
    return value


def _raw_input(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
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
    _check_size(len(body), kind, tuple(shape), where)
    return {spec.name: _from_blob(body, 0, _Input(spec.name, kind, tuple(shape), None, len(body)))}


# Answers


def _described(name: str, kind: str, shape: tuple[int, ...], size: int | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
    return entry if size is None else entry | {"parameters": {"binary_data_size": size}}


def _head(model: str, version: str, number: str, outputs: Sequence[Mapping[str, Any]]) -> bytes:
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if number:
        document["id"] = number
    return _write(document | {"outputs": outputs}).encode()


@lru_cache(maxsize=256)
def _binary_header(
    model: str, version: str, shapes: tuple[tuple[str, str, tuple[int, ...]], ...], sizes: tuple[int, ...]
) -> bytes:
    return _head(model, version, "", [_described(*one, size) for one, size in zip(shapes, sizes, strict=True)])


def _to_blob(spec: TensorSpec, value: Array) -> bytes:
    if spec.datatype == "BYTES":
        return b"".join(_U32.pack(len(item)) + item for item in map(_bytes, value.flat))
    return np.asarray(value, _WIRE[spec.datatype]).tobytes()


def _to_json(spec: TensorSpec, value: Array) -> list[Any]:
    where = f"output {spec.name!r}"
    remedy = 'Ask for it with "parameters": {"binary_data": true}.'
    if spec.datatype in ("FP16", "BF16"):
        raise RequestError(f"{spec.datatype} travels only as binary data", where=where, remedy=remedy)
    if spec.datatype == "BYTES":
        try:
            return [_bytes(item).decode() for item in value.flat]
        except UnicodeDecodeError:
            raise RequestError("it is not UTF-8, so JSON cannot carry it", where=where, remedy=remedy) from None
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise RequestError("it holds NaN or infinity, which JSON cannot carry", where=where, remedy=remedy)
    flat: list[Any] = value.ravel().tolist()
    return flat


def _bytes(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
