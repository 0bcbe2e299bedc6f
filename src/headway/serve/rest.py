"""The REST side of the Open Inference Protocol, on RSGI: HTTP in, the data plane's calls, HTTP out.

Sources: KServe `open-inference-protocol/specification/protocol/inference_rest.md`; RSGI 1.x (granian).
"""

import asyncio
import json
from typing import Any, Protocol

from headway.core.errors import HeadwayError, RequestError
from headway.observe.metrics import Outcome
from headway.observe.requests import RequestRecord
from headway.serve import describe, generate, openapi, rest_extensions, rest_repository
from headway.serve.compression import compress, decompress
from headway.serve.config import ServeConfig
from headway.serve.dataplane import DataPlane
from headway.serve.errors import (
    DeadlineError,
    ForbiddenError,
    FullError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from headway.serve.extensions import Extensions
from headway.serve.fields import RequestLimits
from headway.serve.json_body import LONG
from headway.serve.open_inference import decode, encode, is_long
from headway.serve.presence import Connection, Presence, Visit
from headway.serve.refusals import failure, outcome_of, refusal
from headway.serve.routes import JSON, Answer, Call, Headers, Route, Routes, WrongMethodError, json_answer, telling
from headway.serve.served_model import InferRequest, InferResponse, ServedModel, tenant

_BINARY: Headers = [("content-type", "application/octet-stream")]
_EVENTS: Headers = [("content-type", "text/event-stream; charset=utf-8")]
_LARGE = 1 << 20  # bytes of a body that is counted
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
        clients: tells `address:port` of those who wait for an answer.
    """

    def __init__(self, plane: DataPlane, extensions: Extensions, config: ServeConfig) -> None:
        self._plane = plane
        self._extensions = extensions
        self._config = config
        self._limits = RequestLimits(config.max_json_bytes, config.max_json_depth, config.max_tensors)
        self._aside = extensions.aside
        self._held = 0
        self._presence = Presence(config.request_timeout_s)
        self.clients = self._presence.clients
        self.routes = Routes()
        self.routes.add(*self._of_the_server(), *self._of_a_model())
        self.routes.add(*rest_repository.routes(extensions, self._limits))
        self.routes.add(*rest_extensions.routes(extensions))
        self._openapi = json_answer(200, openapi.document(self.routes))

    async def __rsgi__(self, scope: Any, protocol: HttpProtocol) -> None:
        """Answer one HTTP request, whatever happens."""
        headers = scope.headers  # asked for once: each time makes a new object
        record = self._begin(scope.method, headers)
        outcome: Outcome = "ok"
        try:
            route, named = self.routes.find(scope.method, scope.path)
            record.route, record.named = route.path, named
            if route.method == "POST":
                answer = await self._post(route, Call(named, headers), scope, protocol)
            else:
                answer = await route.handler(Call(named, headers))
        except HeadwayError as error:
            answer, outcome, record.path = _refusal(error), outcome_of(error), scope.path
        except (asyncio.CancelledError, ConnectionError) as error:
            if isinstance(error, ConnectionError):  # it may be that the client only sends no more
                protocol.response_bytes(400, JSON, b'{"error": "the body broke off"}')
            self._plane.metrics.responded(_GONE)
            self._plane.observer.end(record, _GONE, "cancelled")
            return
        except Exception as error:  # noqa: BLE001  (a bug must not take the connection, or the server, with it)
            answer, outcome = json_answer(500, {"error": failure(error)}), "failed"
        self._plane.metrics.responded(answer[0])
        if record.parent is not None:
            answer = answer[0], [*answer[1], ("traceresponse", record.response())], answer[2]
        protocol.response_bytes(*answer)
        self._plane.observer.end(record, answer[0], outcome)

    def _begin(self, method: str, headers: Any) -> RequestRecord:
        if (parent := headers.get("traceparent")) is None:
            return self._plane.observer.begin(method, traced=method == "POST")
        if sum(name == "traceparent" for name, _ in headers.items()) > 1:
            parent = ""  # of several none is valid
        return self._plane.observer.begin(method, parent, headers.get("tracestate"), traced=method == "POST")

    def _of_the_server(self) -> list[Route]:
        plane = self._plane

        async def metrics(call: Call) -> Answer:
            kind, text = await plane.observer.scrape(call.headers.get("accept") or "")
            return 200, [("content-type", kind)], text

        async def described(_call: Call) -> Answer:
            return self._openapi

        def server(_call: Call) -> Any:
            return describe.server(self._extensions.names)

        return [
            Route("GET", "/v2", "Server metadata", telling(server)),
            Route("GET", "/v2/health/live", "Whether the server runs", self._live),
            Route("GET", "/v2/health/ready", "Whether every model answers", self._ready),
            Route("GET", "/v2/models", "Names of the models", telling(lambda _: {"models": plane.names})),
            Route(
                "GET", "/v2/models/stats", "Statistics of every model", telling(lambda _: describe.statistics(plane))
            ),
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
                Route("POST", f"{start}/generate", "Inference in plain JSON", self._generate),
                Route("POST", f"{start}/generate_stream", "The same, as server-sent events", self._generate_stream),
            ]
        return routes

    # Handlers

    async def _infer(self, call: Call) -> Answer:
        model, headers, body = self._model(call), call.headers, call.body
        header = headers.get("inference-header-content-length")
        given = body, header, model.inputs, self._limits, self._extensions.regions
        request = await self._aside.run(decode, *given) if is_long(body, header) else decode(*given)
        response = await self._answered(call, model, request)
        placed = None
        if request.outputs is not None:
            placed = self._extensions.regions.place(request.outputs, response.outputs)
        if sum([0 if binary else value.size for _, value, binary in response.outputs]) < generate.MANY:
            content, length = encode(response, placed)
        else:
            content, length = await self._aside.run(encode, response, placed)
        told = JSON if length is None else [*_BINARY, ("inference-header-content-length", str(length))]
        if (accepted := headers.get("accept-encoding")) is not None:
            content, encoding = await compress(content, accepted, self._aside)
            if encoding is not None:
                told = [*told, ("content-encoding", encoding), ("vary", "accept-encoding")]
        return 200, told, content

    async def _answered(self, call: Call, model: ServedModel, request: InferRequest) -> InferResponse:
        if "authorization" in call.headers:
            found = call.headers.get_all("authorization")
            if len(found) != 1:  # of two, a proxy before us may have looked at the other; none: it is not ASCII
                raise RequestError("must be there once, in ASCII", where="Authorization")
            request.tenant = tenant(found[0])
        return await model.infer(request, self._config.request_timeout_s)

    async def _generate(self, call: Call) -> Answer:
        model, given = self._model(call), (call.body, self._model(call).inputs, self._limits)
        long = len(call.body) >= LONG
        request = await self._aside.run(generate.read, *given) if long else generate.read(*given)
        response = await self._answered(call, model, request)
        if sum([value.size for _, value, _ in response.outputs]) < generate.MANY:
            return 200, JSON, generate.write(response)
        return 200, JSON, await self._aside.run(generate.write, response)

    async def _generate_stream(self, call: Call) -> Answer:
        status, _, content = await self._generate(call)
        return status, _EVENTS, b"data: " + content + b"\n\n"

    async def _metadata(self, call: Call) -> Answer:
        return json_answer(200, self._plane.metadata(call.named["model"], call.named.get("version")))

    async def _model_config(self, call: Call) -> Answer:
        return json_answer(200, describe.config(self._model(call)))

    async def _model_stats(self, call: Call) -> Answer:
        return json_answer(200, describe.statistics(self._plane, call.named["model"], call.named.get("version", "")))

    async def _model_ready(self, call: Call) -> Answer:
        ready = self._model(call).ready and not self._plane.draining
        return json_answer(200 if ready else 503, {"name": call.named["model"], "ready": ready})

    async def _live(self, _call: Call) -> Answer:
        return self._health(200)

    async def _ready(self, _call: Call) -> Answer:
        return self._health(200 if self._plane.ready else 503)

    def _model(self, call: Call) -> ServedModel:
        return self._plane.model(call.named["model"], call.named.get("version"))

    def _health(self, status: int) -> Answer:
        return json_answer(status, {"live": True, "ready": self._plane.ready})

    # Bodies

    async def _post(self, route: Route, call: Call, scope: Any, protocol: HttpProtocol) -> Answer:
        """Answer a request that has a body, which `call` gets here."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (granian runs every request in a task)
        visit = self._presence.begin(task, protocol, scope)
        try:
            body = await self._body(call.headers, protocol, visit)
            visit.body_read = True
            if (encoding := call.headers.get("content-encoding")) is not None:
                body = await decompress(body, encoding, self._config.max_body_bytes, self._aside)
                self._hold(visit, len(body))
            call.body = body
            return await route.handler(call)
        except asyncio.CancelledError:
            if visit.late:
                raise RequestError("the body did not come in time") from None
            raise
        finally:
            self._held -= visit.held
            self._presence.end(visit)

    def _hold(self, visit: Visit, size: int) -> None:
        """Count a large body among those that are held, as far as it has come; 1,000 times 64 MB are too many."""
        if size > _LARGE:
            self._held += size - visit.held
            visit.held = size
            if self._held > self._config.max_held_bytes:
                raise FullError(f"large bodies of {self._held} bytes are held, and no more are taken")

    async def _body(self, headers: Any, protocol: HttpProtocol, visit: Visit) -> bytes:
        """The request's body.

        Raises:
            TooLargeError: it says so, or turns out so.
            FullError: too much of other bodies is held.
            ConnectionError: the client went away in the middle.
        """
        most = self._config.max_body_bytes
        stated = headers.get("content-length")
        try:
            if stated is not None:
                if int(stated) > most:  # the HTTP layer has refused what is no number
                    raise TooLargeError(f"a body of {stated} bytes; at most {most} are read")
                if int(stated) <= _LARGE:
                    return await protocol()
            body = bytearray()  # and not a list of pieces: a flood of tiny ones would take many times their size
            ended = False
            async for piece in protocol:
                if ended:  # granian sends an empty piece at the end, and one more before it where the body broke off
                    raise RequestError("the body broke off, or has trailers, which are not read")
                ended = not piece
                body += piece
                if len(body) > most:
                    raise TooLargeError(f"the body has more than {most} bytes")
                self._hold(visit, len(body))
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
    (DeadlineError, 504),
    (UnavailableError, 503),
)


def _refusal(error: HeadwayError) -> Answer:
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            headers = [*JSON, ("retry-after", "1")] if isinstance(error, FullError) else JSON
            if isinstance(error, WrongMethodError):
                headers = [*JSON, ("allow", error.allowed)]
            return status, headers, json.dumps({"error": refusal(error)}).encode()
    return json_answer(500, {"error": failure(error)})
