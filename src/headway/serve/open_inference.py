"""The Open Inference Protocol's tensor encodings over HTTP: JSON, binary and raw.

Sources: KServe `open-inference-protocol/specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`. A body is JSON, or a JSON header followed by one blob a binary tensor.

Every length, count and shape in a body was written by a stranger: each is checked against the bytes that are there
before anything is allocated from it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from headway.core.errors import RequestError
from headway.core.tensors import Array, DataType, TensorSpec
from headway.serve.binary_tensors import check_size, from_blob, raw_input, to_blob
from headway.serve.dataplane import InferRequest, InferResponse, OutputRequest
from headway.serve.errors import TooLargeError
from headway.serve.fields import (
    check_names,
    is_count,
    read_classes,
    read_id,
    read_kind,
    read_shape,
    read_timeout,
    refuse_unsupported,
)
from headway.serve.json_tensors import from_json, to_json

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
        return InferRequest(raw_input(body, specs), binary=True)
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
        blobs = [to_blob(spec, value) for spec, value, _ in response.outputs]
        shapes = tuple([(spec.name, spec.datatype, value.shape) for spec, value, _ in response.outputs])
        header = _binary_header(response.model, response.version, shapes, tuple([len(blob) for blob in blobs]))
        return b"".join((header, *blobs)), len(header)
    blobs, outputs = [], []
    for spec, value, binary in response.outputs:
        if binary:
            blobs.append(to_blob(spec, value))
            outputs.append(_described(spec.name, spec.datatype, value.shape, len(blobs[-1])))
        else:
            outputs.append(_described(spec.name, spec.datatype, value.shape) | {"data": to_json(spec, value)})
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
    refuse_unsupported(parameters, "the request")
    binary = _flag(parameters.get("binary_data_output", False), "binary_data_output")
    inputs = _tensors(document.get("inputs"), "inputs")
    if not inputs:
        raise RequestError("the request has no inputs", remedy='Send {"inputs": [...]}.')
    outputs = _tensors(document.get("outputs") or [], "outputs")
    return _Header(
        inputs=tuple(_input(entry) for entry in inputs),
        outputs=tuple(_output(entry, binary) for entry in outputs) or None,
        binary=binary,
        id=read_id(document.get("id", "")),
        timeout_s=read_timeout(parameters.get("timeout", 0)),
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


def json_object(text: bytes, most: int) -> dict[str, Any]:
    """The JSON object in a body of at most `most` bytes. Raises `RequestError` where it holds none."""
    if len(text) > most:
        raise TooLargeError(f"{len(text)} bytes of JSON; at most {most} are read")
    return _parse(text)


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


def _tensors(value: object, what: str) -> list[dict[str, Any]]:
    """The entries of `inputs` or `outputs`: objects with names that differ."""
    if not isinstance(value, list):
        raise RequestError("must be a list", where=what)
    names = []
    for number, entry in enumerate(value):
        name = _mapping(entry, f"{what}[{number}]").get("name")
        if not isinstance(name, str):
            raise RequestError("has no name", where=f"{what}[{number}]")
        names.append(name)
    check_names(names, what)
    return value


def _output(entry: Mapping[str, Any], binary: bool) -> OutputRequest:
    name: str = entry["name"]
    parameters = _mapping(entry.get("parameters", {}), f"output {name[:100]!r}: parameters")
    refuse_unsupported(parameters, f"output {name[:100]!r}")
    return OutputRequest(
        name,
        _flag(parameters.get("binary_data", binary), f"output {name[:100]!r}: binary_data"),
        read_classes(parameters.get("classification", 0)),
    )


def _input(entry: Mapping[str, Any]) -> _Input:
    name: str = entry["name"]
    where = f"input {name[:100]!r}"
    parameters = _mapping(entry.get("parameters", {}), f"{where}: parameters")
    refuse_unsupported(parameters, where)
    kind, shape = read_kind(entry.get("datatype"), where), read_shape(entry.get("shape"), where)
    size = parameters.get("binary_data_size")
    if size is None:
        data = from_json(entry.get("data"), kind, shape, where)
        data.flags.writeable = False  # a header that is read again shares it
        return _Input(name, kind, shape, data, 0)
    if "data" in entry:
        raise RequestError("has both data and binary_data_size", where=where)
    if not is_count(size):
        raise RequestError("must be a whole number of bytes", where=f"{where}: binary_data_size")
    check_size(size, kind, shape, where)
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
        found[one.name] = from_blob(body, start, one.size, one.kind, one.shape, one.where)
        start += one.size
    if start != len(body):
        raise RequestError(f"{len(body) - start} bytes follow the last tensor")
    return found


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
