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
from headway.serve.dataplane import InferRequest, InferResponse, OutputRequest
from headway.serve.fields import (
    check_names,
    read_classes,
    read_id,
    read_kind,
    read_shape,
    read_timeout,
    refuse_unsupported,
)
from headway.serve.messages import message

# Datatype -> the field that holds its elements. FP16 and BF16 have none.
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def decode(request: Any) -> InferRequest:
    """Decode a `ModelInferRequest`.

    Raises:
        RequestError: naming what does not fit.
        UnsupportedError: it asks for what this server does not do.
    """
    parameters = _parameters(request.parameters, "the request")
    described = request.inputs
    if not described:
        raise RequestError("the request has no inputs")
    check_names([one.name for one in described], "inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(described):
        raise RequestError(f"{len(raw)} raw_input_contents for {len(described)} inputs")
    inputs: dict[str, Array] = {}
    for number, one in enumerate(described):
        where = f"input {one.name[:100]!r}"
        if one.parameters:
            _parameters(one.parameters, where)
        kind, shape = read_kind(one.datatype, where), read_shape(list(one.shape), where)
        if not raw:
            inputs[one.name] = _typed(one, kind, shape, where)
            continue
        if one.HasField("contents"):
            raise RequestError("has contents, which must be empty beside raw_input_contents", where=where)
        blob: bytes = raw[number]
        check_size(len(blob), kind, shape, where)
        inputs[one.name] = from_blob(blob, 0, len(blob), kind, shape, where)
    return InferRequest(
        inputs,
        _outputs(request.outputs),
        binary=True,
        id=read_id(request.id),
        timeout_s=read_timeout(parameters.get("timeout", 0)),
    )


def encode(response: InferResponse) -> Any:
    """A `ModelInferResponse`."""
    answer = message("inference.ModelInferResponse")(
        model_name=response.model, model_version=response.version, id=response.id
    )
    for spec, value, _ in response.outputs:
        answer.outputs.add(name=spec.name, datatype=spec.datatype, shape=value.shape)
        answer.raw_output_contents.append(to_blob(spec, value))
    return answer


def _outputs(asked: Any) -> list[OutputRequest] | None:
    check_names([one.name for one in asked], "outputs")
    found = []
    for one in asked:
        parameters = _parameters(one.parameters, f"output {one.name[:100]!r}") if one.parameters else {}
        found.append(OutputRequest(one.name, True, read_classes(parameters.get("classification", 0))))
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
        return np.fromiter(elements, dtype, len(elements)).reshape(shape)
    wide = np.fromiter(elements, np.int64, len(elements))
    value = wide.astype(dtype)
    if (value != wide).any():
        raise RequestError(f"a number is out of the range of {kind.name}", where=where)
    return value.reshape(shape)
