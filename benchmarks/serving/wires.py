"""How each server is asked: one row a request, in the leanest form that it understands."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from benchmarks.serving.models import Model

from headway.core.tensors import Array


class Wire(NamedTuple):
    """A form of request and answer.

    Attributes:
        path: where requests go.
        headers: of every request.
        encode: one row, [1, *row], as a body.
        decode: an answer's headers and body as FP32 numbers.
    """

    path: str
    headers: dict[str, str]
    encode: Callable[[Array], bytes]
    decode: Callable[[Mapping[str, str], bytes], Array]


def binary(model: Model) -> Wire:
    """The Open Inference Protocol with its binary tensors."""
    size = int(np.prod(model.row)) * 4
    tensor = {"name": model.input, "datatype": "FP32", "shape": [1, *model.row]}
    asked = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": size}}],
        "parameters": {"binary_data_output": True},
    }
    header = json.dumps(asked, separators=(",", ":")).encode()
    return Wire(
        f"/v2/models/{model.name}/infer",
        {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
        lambda row: header + row.tobytes(),
        lambda told, body: np.frombuffer(body[int(told["inference-header-content-length"]) :], np.float32),
    )


def raw(model: Model) -> Wire:
    """The numbers' bytes and nothing else, both ways."""
    return Wire(
        "/predict",
        {"Content-Type": "application/octet-stream"},
        lambda row: row.tobytes(),
        lambda told, body: np.frombuffer(body, np.float32),
    )


def array(model: Model) -> Wire:
    """A JSON array, both ways."""
    return Wire(
        "/predict",
        {"Content-Type": "application/json"},
        lambda row: json.dumps(row.tolist()).encode(),
        lambda told, body: np.asarray(json.loads(body), np.float32).ravel(),
    )


def text(model: Model) -> Wire:
    """The Open Inference Protocol in JSON, with the numbers' bytes as one base64 string."""

    def encode(row: Array) -> bytes:
        data = base64.b64encode(row.tobytes()).decode()
        tensor = {"name": model.input, "datatype": "BYTES", "shape": [1, 1], "data": [data]}
        return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()

    def decode(told: Mapping[str, str], body: bytes) -> Array:
        (data,) = json.loads(body)["outputs"][0]["data"]
        return np.frombuffer(base64.b64decode(data), np.float32)

    return Wire(f"/v2/models/{model.name}/infer", {"Content-Type": "application/json"}, encode, decode)
