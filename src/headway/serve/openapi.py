"""The REST API as an OpenAPI 3.1 document. Declared by hand; a test holds it against the routes."""

from typing import Any

Document = dict[str, Any]

_MODEL = "/v2/models/{model}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_SERVER = (
    ("get", "/v2", "Server metadata"),
    ("get", "/v2/health/live", "Whether the server runs"),
    ("get", "/v2/health/ready", "Whether every model answers"),
    ("get", "/v2/models", "Names of the models"),
    ("get", "/v2/models/stats", "Statistics of every model"),
    ("post", "/v2/repository/index", "Every version of every model, and its state"),
    ("get", "/metrics", "Prometheus metrics"),
    ("get", "/openapi.json", "This document"),
)
_OF_A_MODEL = (
    ("get", "", "Model metadata"),
    ("get", "/ready", "Whether the model answers"),
    ("get", "/config", "Model configuration"),
    ("get", "/stats", "Model statistics"),
    ("post", "/infer", "Inference"),
)


def document() -> Document:
    """The document, for `/openapi.json`."""
    from headway import __version__

    paths: dict[str, Document] = {}
    for verb, path, summary in _SERVER:
        paths.setdefault(path, {})[verb] = _operation(summary, path)
    for start in (_MODEL, _VERSION):
        for verb, rest, summary in _OF_A_MODEL:
            paths.setdefault(start + rest, {})[verb] = _operation(summary, start + rest)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headway: Open Inference Protocol", "version": __version__},
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def _operation(summary: str, path: str) -> Document:
    made: Document = {"summary": summary, "responses": {"200": _content({}), "default": _content(_ref("Error"))}}
    if path == "/metrics":
        made["responses"]["200"] = {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    names = [name for name in ("model", "version") if f"{{{name}}}" in path]
    if names:
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if path.endswith("/infer"):
        made["requestBody"] = {"required": True, **_content(_ref("InferRequest"), binary=True)}
        made["responses"]["200"] = _content(_ref("InferResponse"), binary=True)
    if path.endswith("/index"):
        made["requestBody"] = _content({"type": "object", "properties": {"ready": {"type": "boolean"}}})
    return made


def _content(schema: Document, *, binary: bool = False) -> Document:
    kinds: Document = {"application/json": {"schema": schema}}
    if binary:  # JSON of Inference-Header-Content-Length bytes, then one blob a binary tensor
        kinds["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {"description": "JSON, or JSON and binary tensors" if binary else "JSON", "content": kinds}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str, **properties: Document) -> Document:
    return {"type": "object", "required": required.split(), "properties": properties}


_TEXT: Document = {"type": "string"}
_SHAPE: Document = {"type": "array", "items": {"type": "integer"}}
_DATA: Document = {"type": "array", "items": {}}
_FREE: Document = {"type": "object"}
_SCHEMAS: Document = {
    "Error": _object("error", error=_TEXT),
    "Tensor": _object("name datatype shape", name=_TEXT, datatype=_TEXT, shape=_SHAPE, data=_DATA, parameters=_FREE),
    "RequestedOutput": _object("name", name=_TEXT, parameters=_FREE),
    "InferRequest": _object(
        "inputs",
        id=_TEXT,
        parameters=_FREE,
        inputs={"type": "array", "items": _ref("Tensor")},
        outputs={"type": "array", "items": _ref("RequestedOutput")},
    ),
    "InferResponse": _object(
        "model_name model_version outputs",
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        outputs={"type": "array", "items": _ref("Tensor")},
    ),
}
