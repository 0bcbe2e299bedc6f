"""The REST side of the Open Inference Protocol, on RSGI: HTTP in, the data plane's calls, HTTP out.

Sources: KServe `open-inference-protocol/specification/protocol/inference_rest.md`; RSGI 1.x (granian).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from headway.core.errors import HeadwayError, RequestError
from headway.observe.metrics import CONTENT_TYPE
from headway.serve import describe, openapi
from headway.serve.compression import compress, decompress
from headway.serve.config import ServeConfig
from headway.serve.control import Control
from headway.serve.dataplane import DataPlane, ServedModel, tenant
from headway.serve.errors import (
    ForbiddenError,
    FullError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from headway.serve.open_inference import decode, encode, json_object
from headway.serve.presence import Connection, Presence
from headway.serve.refusals import failure, refusal
from headway.serve.repository import Repository
from headway.serve.routes import Answer, Call, Headers, Route, Routes, WrongMethodError
from headway.serve.selection import check_unload, read_load

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


class Rest:
    """The RSGI application.

    Attributes:
        routes: everything that is answered.
    """

    def __init__(self, plane: DataPlane, repository: Repository, control: Control, config: ServeConfig) -> None:
        self._plane = plane
        self._repository = repository
        self._control = control
        self._config = config
        self._presence = Presence(config.request_timeout_s)
        self.routes = Routes()
        self.routes.add(*self._of_the_server(), *self._of_a_model(), *self._of_the_repository())
        self._openapi = _answer(200, openapi.document(self.routes))

    async def __rsgi__(self, scope: Any, protocol: HttpProtocol) -> None:
        """Answer one HTTP request, whatever happens."""
        try:
            route, named = self.routes.find(scope.method, scope.path)
            if route.method == "POST":
                answer = await self._post(route, named, scope, protocol)
            else:
                answer = await route.handler(Call(named, scope.headers))
        except HeadwayError as error:
            answer = _refusal(error)
        except (asyncio.CancelledError, ConnectionError):
            self._plane.metrics.responded(_GONE)
            return
        except Exception as error:  # noqa: BLE001  (a bug must not take the connection, or the server, with it)
            answer = _answer(500, {"error": failure(error)})
        self._plane.metrics.responded(answer[0])
        protocol.response_bytes(*answer)

    def _of_the_server(self) -> list[Route]:
        plane = self._plane

        async def metrics(_call: Call) -> Answer:
            return 200, [("content-type", CONTENT_TYPE)], plane.metrics.render()

        async def described(_call: Call) -> Answer:
            return self._openapi

        server = describe.server()
        return [
            Route("GET", "/v2", "Server metadata", _telling(lambda: server)),
            Route("GET", "/v2/health/live", "Whether the server runs", self._live),
            Route("GET", "/v2/health/ready", "Whether every model answers", self._ready),
            Route("GET", "/v2/models", "Names of the models", _telling(lambda: {"models": plane.names})),
            Route("GET", "/v2/models/stats", "Statistics of every model", _telling(lambda: describe.statistics(plane))),
            Route("GET", "/metrics", "Prometheus metrics", metrics),
            Route("GET", "/openapi.json", "This document", described),
        ]

    def _of_a_model(self) -> list[Route]:
        routes: list[Route] = []
        for start in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route("GET", start, "Model metadata", self._metadata),
                Route("GET", f"{start}/ready", "Whether the model answers", self._model_ready),
                Route("GET", f"{start}/config", "Model configuration", self._model_config),
                Route("GET", f"{start}/stats", "Model statistics", self._model_stats),
                Route("POST", f"{start}/infer", "Inference", self._infer),
            ]
        return routes

    def _of_the_repository(self) -> list[Route]:
        routes: list[Route] = []
        for start in ("/v2/repository", "/v2/repository/{repository}"):
            model = f"{start}/models/{{model}}"
            routes += [
                Route("POST", f"{start}/index", "Every version of every model, and its state", self._index),
                Route("POST", f"{model}/load", "Load a model, or load it anew", self._load),
                Route("POST", f"{model}/unload", "Stop serving a model", self._unload),
            ]
        return routes

    # Handlers

    async def _infer(self, call: Call) -> Answer:
        model, headers = self._model(call), call.headers
        header = headers.get("inference-header-content-length")
        request = decode(call.body, header, model.inputs, max_json_bytes=self._config.max_json_bytes)
        if (credentials := headers.get("authorization")) is not None:
            request.tenant = tenant(credentials)
        content, length = encode(await model.infer(request, self._config.request_timeout_s))
        told = _JSON if length is None else [*_BINARY, ("inference-header-content-length", str(length))]
        if (accepted := headers.get("accept-encoding")) is not None:
            content, encoding = await compress(content, accepted)
            if encoding is not None:
                told = [*told, ("content-encoding", encoding), ("vary", "accept-encoding")]
        return 200, told, content

    async def _metadata(self, call: Call) -> Answer:
        return _answer(200, self._plane.metadata(call.named["model"], call.named.get("version")))

    async def _model_config(self, call: Call) -> Answer:
        return _answer(200, describe.config(self._model(call)))

    async def _model_stats(self, call: Call) -> Answer:
        return _answer(200, describe.statistics(self._plane, call.named["model"], call.named.get("version", "")))

    async def _model_ready(self, call: Call) -> Answer:
        ready = self._model(call).ready and not self._plane.draining
        return _answer(200 if ready else 503, {"name": call.named["model"], "ready": ready})

    async def _live(self, _call: Call) -> Answer:
        return self._health(200)

    async def _ready(self, _call: Call) -> Answer:
        return self._health(200 if self._plane.ready else 503)

    async def _index(self, call: Call) -> Answer:
        asked = self._asked(call)
        if not isinstance(ready := asked.get("ready", False), bool):
            raise RequestError("must be true or false", where="ready")
        return _answer(200, describe.index(self._plane, ready=ready))

    async def _load(self, call: Call) -> Answer:
        self._control.check(call.headers)
        selection, archive = read_load(self._parameters(call))
        await self._repository.load(call.named["model"], selection, archive)
        return _answer(200, {})

    async def _unload(self, call: Call) -> Answer:
        self._control.check(call.headers)
        check_unload(self._parameters(call))
        await self._repository.unload(call.named["model"])
        return _answer(200, {})

    def _asked(self, call: Call) -> dict[str, Any]:
        """The body of a call to the repository."""
        if (named := call.named.get("repository")) is not None:
            raise UnsupportedError(f"there is one repository, which has no name, and not {named[:100]!r}")
        return json_object(call.body, self._config.max_json_bytes) if call.body.strip() else {}

    def _parameters(self, call: Call) -> dict[str, Any]:
        parameters = self._asked(call).get("parameters", {})
        if not isinstance(parameters, dict):
            raise RequestError("must be an object", where="parameters")
        return parameters

    def _model(self, call: Call) -> ServedModel:
        return self._plane.model(call.named["model"], call.named.get("version"))

    def _health(self, status: int) -> Answer:
        return _answer(status, {"live": True, "ready": self._plane.ready})

    # Bodies

    async def _post(self, route: Route, named: dict[str, str], scope: Any, protocol: HttpProtocol) -> Answer:
        """Answer a request that has a body."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (granian runs every request in a task)
        visit = self._presence.begin(task, protocol)
        try:
            body = await self._body(scope, protocol)
            visit.body_read = True
            if (encoding := scope.headers.get("content-encoding")) is not None:
                body = await decompress(body, encoding, self._config.max_body_bytes)
            return await route.handler(Call(named, scope.headers, body))
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


_STATUSES: tuple[tuple[type[HeadwayError], int], ...] = (
    (NotFoundError, 404),
    (ForbiddenError, 403),
    (WrongMethodError, 405),
    (TooLargeError, 413),
    (UnsupportedError, 501),
    (RequestError, 400),
    (UnavailableError, 503),
)


def _telling(document: Callable[[], Any]) -> Callable[[Call], Awaitable[Answer]]:
    """A handler that answers with this document."""

    async def answer(_call: Call) -> Answer:
        return _answer(200, document())

    return answer


def _answer(status: int, document: Any) -> Answer:
    return status, _JSON, json.dumps(document).encode()


def _refusal(error: HeadwayError) -> Answer:
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            headers = [*_JSON, ("retry-after", "1")] if isinstance(error, FullError) else _JSON
            if isinstance(error, WrongMethodError):
                headers = [*_JSON, ("allow", error.allowed)]
            return status, headers, json.dumps({"error": refusal(error)}).encode()
    return _answer(500, {"error": failure(error)})
