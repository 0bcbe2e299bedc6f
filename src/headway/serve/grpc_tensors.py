"""The Open Inference Protocol's infer messages: `ModelInferRequest` in, `ModelInferResponse` out.

Source: KServe `open-inference-protocol/specification/protocol/inference_grpc.md`. Inputs come as raw bytes beside the
request or as typed contents inside it. Answers are always raw: the common clients read nothing else.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from headway.core.errors import RequestError
from headway.core.tensors import Array, DataType
from headway.serve.binary_tensors import check_size, from_blob, to_blob
from headway.serve.fields import (
    MAX_DIMS,
    RequestLimits,
    Slice,
    check_names,
    check_texts,
    read_classes,
    read_id,
    read_kind,
    read_priority,
    read_shape,
    read_slice,
    read_timeout,
    refuse_unsupported,
)
from headway.serve.messages import message
from headway.serve.served_model import InferRequest, InferResponse, OutputRequest
from headway.serve.shared_memory import OFF, Regions

_LIMITS = RequestLimits()
_PART = 1 << 14  # elements that are read in one go; between two, other threads run

# Datatype -> the field that holds its elements. FP16 and BF16 have none.
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def is_long(request: Any) -> bool:
    """Whether decoding takes long: elements are read one by one, and there are many."""
    typed = not request.raw_input_contents
    return any((typed or one.datatype == "BYTES") and math.prod(_dims(one)) > _PART for one in request.inputs)


def decode(request: Any, limits: RequestLimits = _LIMITS, regions: Regions = OFF) -> InferRequest:
    """Decode a `ModelInferRequest`.

    Args:
        request: the message.
        limits: of what it may bring and ask for.
        regions: of shared memory that it may name.

    Raises:
        RequestError: naming what does not fit.
        UnsupportedError: it asks for what this server does not do.
    """
    parameters = _parameters(request.parameters, "the request")
    described = request.inputs
    if not described:
        raise RequestError("the request has no inputs")
    check_names([one.name for one in described], "inputs", limits.tensors)
    parts = [_part(one) if one.parameters else None for one in described]
    raw = request.raw_input_contents
    if raw and len(raw) != parts.count(None):
        raise RequestError(f"{len(raw)} raw_input_contents for {parts.count(None)} inputs")
    blobs, texts = iter(raw), 0
    inputs: dict[str, Array] = {}
    for one, part in zip(described, parts, strict=True):
        where = f"input {one.name[:100]!r}"
        kind, shape = read_kind(one.datatype, where), read_shape(_dims(one), where)
        if kind.name == "BYTES":
            check_texts(texts := texts + math.prod(shape))
        if part is None and not raw:
            inputs[one.name] = _typed(one, kind, shape, where)
            continue
        if one.HasField("contents"):
            beside = "raw_input_contents" if part is None else "shared_memory_region"
            raise RequestError(f"has contents, which must be empty beside {beside}", where=where)
        if part is not None:
            check_size(part.size, kind, shape, where)
        blob: bytes = next(blobs) if part is None else regions.read(part)
        check_size(len(blob), kind, shape, where)
        inputs[one.name] = from_blob(blob, 0, len(blob), kind, shape, where)
    return InferRequest(
        inputs,
        _outputs(request.outputs, limits, regions),
        binary=True,
        id=read_id(request.id),
        timeout_s=read_timeout(parameters.get("timeout", 0)),
        priority=read_priority(parameters.get("priority", 0)),
    )


def encode(response: InferResponse, placed: Mapping[str, Slice] | None = None) -> Any:
    """A `ModelInferResponse`. `placed` says where outputs lie that were written to shared memory, by name."""
    answer = message("inference.ModelInferResponse")(
        model_name=response.model, model_version=response.version, id=response.id
    )
    for spec, value, _ in response.outputs:
        output = answer.outputs.add(name=spec.name, datatype=spec.datatype, shape=value.shape)
        if placed and spec.name in placed:
            part = placed[spec.name]
            output.parameters["shared_memory_region"].string_param = part.region
            output.parameters["shared_memory_byte_size"].int64_param = part.size
            output.parameters["shared_memory_offset"].int64_param = part.offset
            answer.raw_output_contents.append(b"")  # clients count on one for each output
        else:
            answer.raw_output_contents.append(to_blob(spec, value))
    return answer


def _dims(one: Any) -> list[int]:
    """An input's shape; where it is too long, no more of it than shows that."""
    dims: list[int] = one.shape[: MAX_DIMS + 1]
    return dims


def _part(one: Any) -> Slice | None:
    where = f"input {one.name[:100]!r}"
    return read_slice(_parameters(one.parameters, where), where)


def _outputs(asked: Any, limits: RequestLimits, regions: Regions) -> list[OutputRequest] | None:
    check_names([one.name for one in asked], "outputs", limits.tensors)
    found = []
    for one in asked:
        where = f"output {one.name[:100]!r}"
        parameters = _parameters(one.parameters, where) if one.parameters else {}
        part = read_slice(parameters, where)
        if part is not None:
            regions.check(part)
        found.append(OutputRequest(one.name, True, read_classes(parameters.get("classification", 0)), part))
    return found or None


def _parameters(given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Each parameter as the Python value that was chosen for it; None where none was."""
    refuse_unsupported(given, what)
    chosen = {name: (value, value.WhichOneof("parameter_choice")) for name, value in given.items()}
    return {name: getattr(value, field) if field else None for name, (value, field) in chosen.items()}


def _typed(one: Any, kind: DataType, shape: tuple[int, ...], where: str) -> Array:
    """The tensor in an input's own contents; memory is taken for what came, not for what the shape says."""
    field = _CONTENTS.get(kind.name)
    if field is None:
        raise RequestError(f"{kind.name} travels only as raw_input_contents", where=where)
    filled = [found.name for found, _ in one.contents.ListFields()]
    if filled != [field]:
        raise RequestError(f"{kind.name} needs {field}, and nothing else, to be filled", where=where)
    elements = getattr(one.contents, field)
    if len(elements) != math.prod(shape):
        raise RequestError(f"{len(elements)} elements do not make the shape {list(shape)}"[:300], where=where)
    if kind.name == "BYTES":
        texts = np.empty(len(elements), dtype=object)
        texts[:] = list(elements)
        return texts.reshape(shape)
    dtype = np.dtype(kind.numpy)
    if dtype.kind not in "iu" or dtype.itemsize >= 4:
        return _array(elements, dtype).reshape(shape)
    wide = _array(elements, np.dtype(np.int64))
    value = wide.astype(dtype)
    if (value != wide).any():
        raise RequestError(f"a number is out of the range of {kind.name}", where=where)
    return value.reshape(shape)


def _array(elements: Any, dtype: np.dtype[Any]) -> Array:
    parts = (elements[start : start + _PART] for start in range(0, len(elements), _PART))
    return np.concatenate([np.array(part, dtype) for part in parts])
