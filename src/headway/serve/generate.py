"""The generate extension: an infer request as plain JSON, `{"input name": value, ...}`, and an answer as plain.

Source: Triton `docs/protocol/extension_generate.md`. A model here answers once, so `generate_stream` sends one event.

A key that is an input's name brings its value: one value, or nested lists, whose dimensions go to the last ones of the
input; what is missing in front is 1. So `[1, 2, 3, 4]` is one row of an input [-1, 4], and a text one row of [-1].
Answers are made the other way round. `id` and `parameters` are as in an infer request; any other key must be a plain
value and is a parameter too.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from headway.core.errors import RequestError
from headway.core.tensors import Array, TensorSpec, datatype
from headway.serve.fields import MAX_DIMS, RequestLimits, read_id, read_priority, read_timeout, refuse_unsupported
from headway.serve.json_body import json_object
from headway.serve.json_tensors import from_json, to_json
from headway.serve.served_model import InferRequest, InferResponse

MANY = 1 << 16  # elements; writing more goes to a thread


def read(body: bytes, specs: Sequence[TensorSpec], limits: RequestLimits) -> InferRequest:
    """The infer request that a body asks for. Raises `RequestError` and `UnsupportedError`."""
    given = json_object(body, limits)
    named = {spec.name: spec for spec in specs}
    inputs = {name: _tensor(value, named[name]) for name, value in given.items() if name in named}
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError("must be a JSON object", where="parameters")
    others = {name: value for name, value in given.items() if name not in named and name not in ("id", "parameters")}
    parameters = {**parameters, **others}
    for name, value in parameters.items():
        if isinstance(value, list | dict | None):
            raise RequestError(
                f"no input is called {name[:100]!r}, and a parameter is one plain value",
                remedy=f"The inputs are: {', '.join(named)}.",
            )
    refuse_unsupported(parameters, "the request")
    return InferRequest(
        inputs,
        id=read_id(given.get("id", "") if "id" not in named else ""),
        timeout_s=read_timeout(parameters.get("timeout", 0)),
        priority=read_priority(parameters.get("priority", 0)),
    )


def write(response: InferResponse) -> bytes:
    """The JSON that answers. Raises `RequestError` where JSON cannot carry an output."""
    about = {"id": response.id} if response.id else {}
    about |= {"model_name": response.model, "model_version": response.version}
    document = {**about, **{spec.name: _plain(spec, value) for spec, value, _ in response.outputs}}
    if sum(value.size for _, value, _ in response.outputs) < MANY:
        return json.dumps(document).encode()
    return "".join(json.JSONEncoder().iterencode(document)).encode()  # in Python, so that other threads run meanwhile


def _tensor(value: object, spec: TensorSpec) -> Array:
    shape: list[int] = []
    inner = value
    while isinstance(inner, list) and inner and len(shape) < MAX_DIMS:
        shape.append(len(inner))
        inner = inner[0]
    full = (*[1] * (len(spec.shape) - len(shape)), *shape)
    data = value if isinstance(value, list) else [value]
    return from_json(data, datatype(spec.datatype), tuple(shape) or (1,), f"input {spec.name!r}").reshape(full)


def _plain(spec: TensorSpec, value: Array) -> Any:
    shape = list(value.shape)
    while shape and shape[0] == 1:
        del shape[0]
    found = np.empty(value.size, dtype=object)
    found[:] = to_json(spec, value)
    return found.reshape(shape).tolist()
