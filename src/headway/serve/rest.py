"""The REST side of the Open Inference Protocol, on RSGI: HTTP in, the data plane's calls, HTTP out.

Sources: KServe `open-inference-protocol/specification/protocol/inference_rest.md`; RSGI 1.x (granian).
"""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from headway.core.errors import HeadwayError, RequestError
from headway.observe.metrics import CONTENT_TYPE
from headway.serve import describe, openapi
from headway.serve.compression import compress, decompress
from headway.serve.config import ServeConfig
from headway.serve.dataplane import DataPlane, ServedModel
from headway.serve.errors import FullError, NotFoundError, TooLargeError, UnavailableError, UnsupportedError
from headway.serve.open_inference import decode, encode, json_object
from headway.serve.presence import Connection, Presence
from headway.serve.refusals import failure, refusal

Headers = list[tuple[str, str]]
Answer = tuple[int, Headers, bytes]

_MODELS = "/v2/models/"
_INDEX = "/v2/repository/index"
_JSON: Headers = [("content-type", "application/json")]
_BINARY: Headers = [("content-type", "application/octet-stream")]
_GONE = 499  # as nginx counts a caller that left; nobody receives it


class HttpProtocol(Connection, Protocol):
    """What is used of RSGI's protocol object."""

    async def __call__(self) -> bytes:
        """The whole body."""

    def __aiter__(self) -> Any:
        """The body in pieces."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the answer."""


class WrongMethodError(RequestError):
    """The path exists, but not for this method."""


class Rest:
    """The RSGI application."""

    def __init__(self, plane: DataPlane, config: ServeConfig) -> None:
        self._plane = plane
        self._config = config
        self._server = describe.server()
        self._presence = Presence(config.request_timeout_s)
        self._fixed: dict[str, Callable[[], Answer]] = {
            "/v2": lambda: _answer(200, self._server),
            "/v2/health/live": lambda: self._health(200),
            "/v2/health/ready": lambda: self._health(200 if plane.ready else 503),
            "/v2/models": lambda: _answer(200, {"models": plane.names}),
            "/v2/models/stats": lambda: _answer(200, describe.statistics(plane)),
            "/openapi.json": lambda: _answer(200, openapi.document()),
            "/metrics": lambda: (200, [("content-type", CONTENT_TYPE)], plane.metrics.render()),
        }

        self._of_a_model: dict[str, Callable[[str, str | None], Answer]] = {
            "": lambda name, version: _answer(200, plane.metadata(name, version)),
            "ready": self._model_ready,
            "config": lambda name, version: _answer(200, describe.config(plane.model(name, version))),
            "stats": lambda name, version: _answer(200, describe.statistics(plane, name, version or "")),
        }

    async def __rsgi__(self, scope: Any, protocol: HttpProtocol) -> None:
        """Answer one HTTP request, whatever happens."""
        try:
            model = self._infer_target(scope)
            if model is not None or _is_index(scope):
                answer = await self._post(model, scope, protocol)
            else:
                answer = self._get(scope)
        except HeadwayError as error:
            answer = _refusal(error)
        except (asyncio.CancelledError, ConnectionError):
            self._plane.metrics.responded(_GONE)
            return
        except Exception as error:  # noqa: BLE001  (a bug must not take the connection, or the server, with it)
            answer = _answer(500, {"error": failure(error)})
        self._plane.metrics.responded(answer[0])
        protocol.response_bytes(*answer)

    def _infer_target(self, scope: Any) -> ServedModel | None:
        """The model of `/v2/models/{model}[/versions/{version}]/infer`; None for another path."""
        path: str = scope.path
        if not (path.startswith(_MODELS) and path.endswith("/infer")):
            return None
        name, version, rest = _split(path)
        if rest != ["infer"]:
            return None
        _require(scope, "POST")
        return self._plane.model(name, version)

    def _get(self, scope: Any) -> Answer:
        path: str = scope.path.removesuffix("/")
        make = self._fixed.get(path)
        if make is None and path.startswith(_MODELS):
            name, version, rest = _split(path)
            of_a_model = self._of_a_model.get("/".join(rest))
            if of_a_model is not None:
                make = partial(of_a_model, name, version)
        if make is None:
            raise NotFoundError(f"no such path: {path[:200]}")
        _require(scope, "GET")
        return make()

    def routes(self) -> set[tuple[str, str]]:
        """Method and path of everything that is answered."""
        model = [("GET", f"/{rest}" if rest else "") for rest in self._of_a_model] + [("POST", "/infer")]
        starts = (f"{_MODELS}{{model}}", f"{_MODELS}{{model}}/versions/{{version}}")
        return {
            ("POST", _INDEX),
            *(("GET", path) for path in self._fixed),
            *((method, start + rest) for start in starts for method, rest in model),
        }

    async def _infer(self, model: ServedModel, body: bytes, headers: Any) -> Answer:
        header = headers.get("inference-header-content-length")
        request = decode(body, header, model.inputs, max_json_bytes=self._config.max_json_bytes)
        content, length = encode(await model.infer(request, self._config.request_timeout_s))
        told = _JSON if length is None else [*_BINARY, ("inference-header-content-length", str(length))]
        if (accepted := headers.get("accept-encoding")) is not None:
            content, encoding = await compress(content, accepted)
            if encoding is not None:
                told = [*told, ("content-encoding", encoding), ("vary", "accept-encoding")]
        return 200, told, content

    async def _index(self, body: bytes) -> Answer:
        asked = json_object(body, self._config.max_json_bytes) if body.strip() else {}
        if not isinstance(ready := asked.get("ready", False), bool):
            raise RequestError("must be true or false", where="ready")
        return _answer(200, describe.index(self._plane, ready=ready))

    async def _post(self, model: ServedModel | None, scope: Any, protocol: HttpProtocol) -> Answer:
        """Answer a request that has a body: inference where there is a model, else the repository index."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (granian runs every request in a task)
        visit = self._presence.begin(task, protocol)
        try:
            body = await self._body(scope, protocol)
            visit.body_read = True
            if (encoding := scope.headers.get("content-encoding")) is not None:
                body = await decompress(body, encoding, self._config.max_body_bytes)
            return await (self._index(body) if model is None else self._infer(model, body, scope.headers))
        except asyncio.CancelledError:
            if visit.late:
                raise RequestError("the body did not come in time") from None
            raise
        finally:
            self._presence.end(visit)

    async def _body(self, scope: Any, protocol: HttpProtocol) -> bytes:
        """The request's body.

        Raises:
            TooLargeError: it says so, or turns out so.
            ConnectionError: the client went away in the middle.
        """
        most = self._config.max_body_bytes
        stated = scope.headers.get("content-length")
        try:
            if stated is not None:
                if int(stated) > most:  # the HTTP layer has refused what is no number
                    raise TooLargeError(f"a body of {stated} bytes; at most {most} are read")
                return await protocol()
            body = bytearray()  # and not a list of pieces: a flood of tiny ones would take many times their size
            async for piece in protocol:
                body += piece
                if len(body) > most:
                    raise TooLargeError(f"the body has more than {most} bytes")
            return bytes(body)
        except RuntimeError:  # RSGI's "transport is closed"
            raise ConnectionError("the client has gone") from None

    def _model_ready(self, name: str, version: str | None) -> Answer:
        ready = self._plane.model(name, version).ready and not self._plane.draining
        return _answer(200 if ready else 503, {"name": name, "ready": ready})

    def _health(self, status: int) -> Answer:
        return _answer(status, {"live": True, "ready": self._plane.ready})


_STATUSES: tuple[tuple[type[HeadwayError], int], ...] = (
    (NotFoundError, 404),
    (WrongMethodError, 405),
    (TooLargeError, 413),
    (UnsupportedError, 501),
    (RequestError, 400),
    (UnavailableError, 503),
)


def _split(path: str) -> tuple[str, str | None, list[str]]:
    """Model, version and what follows them, of a path below `/v2/models/`."""
    name, *rest = path[len(_MODELS) :].split("/")
    if len(rest) > 1 and rest[0] == "versions":
        return name, rest[1], rest[2:]
    return name, None, rest


def _is_index(scope: Any) -> bool:
    if scope.path.removesuffix("/") != _INDEX:
        return False
    _require(scope, "POST")
    return True


def _require(scope: Any, method: str) -> None:
    if scope.method != method:
        raise WrongMethodError(f"this path takes {method}, not {scope.method[:20]}")


def _answer(status: int, document: Any) -> Answer:
    return status, _JSON, json.dumps(document).encode()


def _refusal(error: HeadwayError) -> Answer:
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            headers = [*_JSON, ("retry-after", "1")] if isinstance(error, FullError) else _JSON
            return status, headers, json.dumps({"error": refusal(error)}).encode()
    return _answer(500, {"error": failure(error)})
