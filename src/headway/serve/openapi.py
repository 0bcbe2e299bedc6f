"""The REST API as an OpenAPI 3.1 document, made from its routes."""

import re
from collections.abc import Iterable
from typing import Any

from headway.serve.routes import Route

Document = dict[str, Any]


def document(routes: Iterable[Route]) -> Document:
    """The document of these routes, for `/openapi.json`."""
    from headway import __version__

    paths: dict[str, Document] = {}
    for route in sorted(routes, key=lambda route: route.path):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headway: Open Inference Protocol", "version": __version__},
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def _operation(route: Route) -> Document:
    path = route.path
    made: Document = {"summary": route.summary, "responses": {"200": _content({}), "default": _content(_ref("Error"))}}
    if path == "/metrics":
        made["responses"]["200"] = {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    if names := re.findall(r"{(\w+)}", path):
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if path.endswith("/generate_stream"):
        made["responses"]["200"] = {"description": "Events", "content": {"text/event-stream": {"schema": _TEXT}}}
    if route.method == "POST":
        made["requestBody"] = _content(_FREE)
    if path.endswith("/infer"):
        made["requestBody"] = {"required": True, **_content(_ref("InferRequest"), binary=True)}
        made["responses"]["200"] = _content(_ref("InferResponse"), binary=True)
    if path.endswith("/index"):
        made["requestBody"] = _content({"type": "object", "properties": {"ready": {"type": "boolean"}}})
    if path.endswith("load"):
        made["requestBody"] = _content({"type": "object", "properties": {"parameters": _FREE}})
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
