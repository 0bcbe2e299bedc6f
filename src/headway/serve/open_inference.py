"""The Open Inference Protocol's tensor encodings over HTTP: JSON, binary and raw.

Sources: KServe `open-inference-protocol/specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`. A body is JSON, or a JSON header followed by one blob a binary tensor.

Every length, count and shape in a body was written by a stranger: each is checked against the bytes that are there
before anything is allocated from it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json import JSONEncoder
from typing import Any

from headway.core.errors import RequestError
from headway.core.tensors import Array, DataType, TensorSpec
from headway.serve.binary_tensors import check_size, from_blob, raw_input, to_blob
from headway.serve.fields import (
    RequestLimits,
    Slice,
    check_names,
    check_texts,
    is_count,
    read_classes,
    read_id,
    read_kind,
    read_priority,
    read_shape,
    read_slice,
    read_timeout,
    refuse_unsupported,
)
from headway.serve.json_body import LONG, json_object
from headway.serve.json_tensors import from_json, to_json
from headway.serve.served_model import InferRequest, InferResponse, OutputRequest
from headway.serve.shared_memory import OFF, Regions

_SHORT = 2048  # bytes of a header that is worth remembering
_PART = 1 << 13  # numbers that are written as JSON in one go; between two, other threads run
_LIMITS = RequestLimits()


def decode(
    body: bytes,
    header_length: str | None,
    specs: Sequence[TensorSpec],
    limits: RequestLimits = _LIMITS,
    regions: Regions = OFF,
) -> InferRequest:
    """Decode the body of an infer request. Arrays of fixed-size elements are views of `body`.

    Args:
        body: as it was received.
        header_length: the `Inference-Header-Content-Length` header.
        specs: the model's inputs; a raw request (header length 0) has no other description of its bytes.
        limits: of what it may bring and ask for.
        regions: of shared memory that it may name.

    Raises:
        TooLargeError: more JSON, or a larger tensor in shared memory, than is read.
        RequestError: naming what does not fit.
        UnsupportedError: it asks for what this server does not do.
    """
    length = _header_length(header_length, len(body))
    if length == 0 and header_length is not None:
        return InferRequest(raw_input(body, specs), binary=True)
    if length < len(body):
        # A client that sends tensors as binary sends the same few headers over and over.
        header = _read_again(body[:length], limits) if length <= _SHORT else _read(body[:length], limits)
    else:
        header = _read(body, limits)
    if header.outputs is not None:
        for one in header.outputs:
            if one.region is not None:
                regions.check(one.region)
    inputs = _inputs(header.inputs, body, length, regions)
    return InferRequest(inputs, header.outputs, header.binary, header.id, header.timeout_s, header.priority)


def is_long(body: bytes, header_length: str | None) -> bool:
    """Whether decoding takes long: much JSON, or many BYTES elements. Other tensors are soon read."""
    if len(body) < LONG:
        return False
    if header_length is None or len(header_length) >= len(str(LONG)) or not header_length.isdecimal():
        return True
    head = body[: int(header_length)]
    return b"BYTES" in head or b"\\" in head  # a text can be written so as not to be found


def encode(response: InferResponse, placed: Mapping[str, Slice] | None = None) -> tuple[bytes, int | None]:
    """Encode an answer.

    Args:
        response: the outputs.
        placed: where in shared memory those outputs lie that were written there, by name.

    Returns:
        The body, and the length of its JSON header where binary tensors follow it (else None).

    Raises:
        RequestError: an output was asked for as JSON that JSON cannot carry.
    """
    if not response.id and not placed and all(binary for _, _, binary in response.outputs):
        blobs = [to_blob(spec, value) for spec, value, _ in response.outputs]
        shapes = tuple([(spec.name, spec.datatype, value.shape) for spec, value, _ in response.outputs])
        header = _binary_header(response.model, response.version, shapes, tuple([len(blob) for blob in blobs]))
        return b"".join((header, *blobs)), len(header)
    blobs, outputs = [], []
    for spec, value, binary in response.outputs:
        about = {"name": spec.name, "datatype": spec.datatype, "shape": value.shape}
        if placed and spec.name in placed:
            outputs.append(_write(about | {"parameters": _placed(placed[spec.name])}))
        elif binary:
            blobs.append(to_blob(spec, value))
            outputs.append(_write(about | {"parameters": {"binary_data_size": len(blobs[-1])}}))
        else:
            outputs.append(_with(about, "data", _parts(to_json(spec, value))))
    header = _head(response.model, response.version, response.id, outputs)
    return (b"".join((header, *blobs)), len(header)) if blobs else (header, None)


# Requests


@dataclass(frozen=True, slots=True)
class _Input:
    """One input as the header describes it: its data, its part of shared memory, or the size in bytes of its blob."""

    name: str
    kind: DataType
    shape: tuple[int, ...]
    data: Array | None
    region: Slice | None
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
    priority: int


def _read(text: bytes, limits: RequestLimits) -> _Header:
    document = json_object(text, limits)
    parameters = _mapping(document.get("parameters", {}), "parameters")
    refuse_unsupported(parameters, "the request")
    binary = _flag(parameters.get("binary_data_output", False), "binary_data_output")
    inputs = _tensors(document.get("inputs"), "inputs", limits.tensors)
    if not inputs:
        raise RequestError("the request has no inputs", remedy='Send {"inputs": [...]}.')
    outputs = _tensors(document.get("outputs") or [], "outputs", limits.tensors)
    described = tuple(_input(entry) for entry in inputs)
    check_texts(sum(math.prod(one.shape) for one in described if one.kind.name == "BYTES"))
    return _Header(
        inputs=described,
        outputs=tuple(_output(entry, binary) for entry in outputs) or None,
        binary=binary,
        id=read_id(document.get("id", "")),
        timeout_s=read_timeout(parameters.get("timeout", 0)),
        priority=read_priority(parameters.get("priority", 0)),
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


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError("must be a JSON object", where=what)
    return value


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise RequestError("must be true or false", where=what)
    return value


def _tensors(value: object, what: str, most: int) -> list[dict[str, Any]]:
    """The entries of `inputs` or `outputs`: objects with names that differ."""
    if not isinstance(value, list):
        raise RequestError("must be a list", where=what)
    names = []
    for number, entry in enumerate(value):
        name = _mapping(entry, f"{what}[{number}]").get("name")
        if not isinstance(name, str):
            raise RequestError("has no name", where=f"{what}[{number}]")
        names.append(name)
    check_names(names, what, most)
    return value


def _output(entry: Mapping[str, Any], binary: bool) -> OutputRequest:
    name: str = entry["name"]
    parameters = _mapping(entry.get("parameters", {}), f"output {name[:100]!r}: parameters")
    refuse_unsupported(parameters, f"output {name[:100]!r}")
    return OutputRequest(
        name,
        _flag(parameters.get("binary_data", binary), f"output {name[:100]!r}: binary_data"),
        read_classes(parameters.get("classification", 0)),
        read_slice(parameters, f"output {name[:100]!r}"),
    )


def _input(entry: Mapping[str, Any]) -> _Input:
    name: str = entry["name"]
    where = f"input {name[:100]!r}"
    parameters = _mapping(entry.get("parameters", {}), f"{where}: parameters")
    refuse_unsupported(parameters, where)
    kind, shape = read_kind(entry.get("datatype"), where), read_shape(entry.get("shape"), where)
    size, region = parameters.get("binary_data_size"), read_slice(parameters, where)
    if size is None and region is None:
        data = from_json(entry.get("data"), kind, shape, where)
        data.flags.writeable = False  # a header that is read again shares it
        return _Input(name, kind, shape, data, None, 0)
    if "data" in entry or (size is not None and region is not None):
        raise RequestError("has more than one of data, binary_data_size and shared_memory_region", where=where)
    if region is not None:
        check_size(region.size, kind, shape, where)
        return _Input(name, kind, shape, None, region, 0)
    if not is_count(size):
        raise RequestError("must be a whole number of bytes", where=f"{where}: binary_data_size")
    check_size(size, kind, shape, where)
    return _Input(name, kind, shape, None, None, size)


def _inputs(described: Sequence[_Input], body: bytes, start: int, regions: Regions) -> dict[str, Array]:
    """Every input by name; `start` is where the first blob begins."""
    found: dict[str, Array] = {}
    for one in described:
        if one.data is not None:
            found[one.name] = one.data
            continue
        if one.region is not None:
            found[one.name] = from_blob(regions.read(one.region), 0, one.region.size, one.kind, one.shape, one.where)
            continue
        if one.size > len(body) - start:
            raise RequestError(f"{one.size} bytes, but {len(body) - start} are left in the body", where=one.where)
        found[one.name] = from_blob(body, start, one.size, one.kind, one.shape, one.where)
        start += one.size
    if start != len(body):
        raise RequestError(f"{len(body) - start} bytes follow the last tensor")
    return found


# Answers

_write = JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def _parts(flat: list[Any]) -> str:
    """A list as JSON, written in parts."""
    if len(flat) <= _PART:
        return _write(flat)
    parts = [_write(flat[start : start + _PART])[1:-1] for start in range(0, len(flat), _PART)]
    return f"[{','.join(parts)}]"


def _with(about: Mapping[str, Any], name: str, text: str) -> str:
    """An object as JSON, with one more member that is JSON already."""
    return f'{_write(about)[:-1]},"{name}":{text}}}'


def _placed(part: Slice) -> dict[str, Any]:
    where: dict[str, Any] = {"shared_memory_region": part.region, "shared_memory_byte_size": part.size}
    return {**where, "shared_memory_offset": part.offset} if part.offset else where


def _head(model: str, version: str, number: str, outputs: Sequence[str]) -> bytes:
    about = {"model_name": model, "model_version": version} | ({"id": number} if number else {})
    return _with(about, "outputs", f"[{','.join(outputs)}]").encode()


@lru_cache(maxsize=256)
def _binary_header(
    model: str, version: str, shapes: tuple[tuple[str, str, tuple[int, ...]], ...], sizes: tuple[int, ...]
) -> bytes:
    outputs = [
        _write({"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": size}})
        for (name, kind, shape), size in zip(shapes, sizes, strict=True)
    ]
    return _head(model, version, "", outputs)
