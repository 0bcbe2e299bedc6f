"""The REST side of the Open Inference Protocol, on RSGI: HTTP in, the data plane's calls, HTTP out.

Sources: KServe `open-inference-protocol/specification/protocol/inference_rest.md`; RSGI 1.x (granian).
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, Protocol

from headway.core.errors import HeadwayError, RequestError
from headway.observe.logs import logger, request_id
from headway.observe.metrics import CONTENT_TYPE
from headway.serve.config import ServeConfig
from headway.serve.dataplane import DataPlane, ServedModel
from headway.serve.errors import FullError, NotFoundError, TooLargeError, UnavailableError, UnsupportedError
from headway.serve.open_inference import decode, encode

Headers = list[tuple[str, str]]
Answer = tuple[int, Headers, bytes]

_JSON: Headers = [("content-type", "application/json")]
_GONE = 499  # as nginx counts a caller that left; nobody receives it


class HttpProtocol(Protocol):
    """What is used of RSGI's protocol object."""

    async def __call__(self) -> bytes:
        """The whole body."""

    def __aiter__(self) -> Any:
        """The body in pieces."""

    async def client_disconnect(self) -> None:
        """Returns when the client has gone."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the answer."""


class WrongMethodError(RequestError):
    """The path exists, but not for this method."""


class Rest:
    """The RSGI application."""

    def __init__(self, plane: DataPlane, config: ServeConfig) -> None:
        from headway import __version__

        self._plane = plane
        self._config = config
        self._server = {"name": "headway", "version": __version__, "extensions": ["binary_tensor_data"]}
        self._statuses = {status: plane.metrics.responses.labels(str(status)) for status in (200, _GONE)}
        self._fixed: dict[str, Callable[[], Answer]] = {
            "/v2": lambda: _answer(200, self._server),
            "/v2/health/live": lambda: self._health(200),
            "/v2/health/ready": lambda: self._health(200 if plane.ready else 503),
            "/v2/models": lambda: _answer(200, {"models": plane.names}),
            "/metrics": lambda: (200, [("content-type", CONTENT_TYPE)], plane.metrics.render()),
        }

    async def __rsgi__(self, scope: Any, protocol: HttpProtocol) -> None:
        """Answer one HTTP request, whatever happens."""
        try:
            answer = await self._route(scope, protocol)
        except HeadwayError as error:
            answer = self._refusal(error)
        except (asyncio.CancelledError, ConnectionError):
            self._count(_GONE)
            return
        except Exception as error:  # noqa: BLE001  (a bug must not take the connection, or the server, with it)
            answer = self._bug(error)
        self._count(answer[0])
        protocol.response_bytes(*answer)

    async def _route(self, scope: Any, protocol: HttpProtocol) -> Answer:
        path: str = scope.path
        if path.startswith("/v2/models/"):
            return await self._model_route(path.removesuffix("/").split("/")[3:], scope, protocol)
        make = self._fixed.get(path.removesuffix("/"))
        if make is None:
            raise NotFoundError(f"no such path: {path[:200]}")
        _require(scope, "GET")
        return make()

    async def _model_route(self, parts: list[str], scope: Any, protocol: HttpProtocol) -> Answer:
        """`{model}[/versions/{version}][/infer|/ready]`."""
        name, version, rest = parts[0], None, parts[1:]
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        if rest == ["infer"]:
            _require(scope, "POST")
            return await self._infer(self._plane.model(name, version), scope, protocol)
        if rest == ["ready"]:
            _require(scope, "GET")
            ready = self._plane.model(name, version).ready and not self._plane.draining
            return _answer(200 if ready else 503, {"name": name, "ready": ready})
        if rest:
            raise NotFoundError(f"no such path: {scope.path[:200]}")
        _require(scope, "GET")
        return _answer(200, self._plane.metadata(name, version))

    async def _infer(self, model: ServedModel, scope: Any, protocol: HttpProtocol) -> Answer:
        header = scope.headers.get("inference-header-content-length")
        body = await self._body(scope, protocol)
        request = decode(body, header, model.inputs, max_json_bytes=self._config.max_json_bytes)
        watch = _cancel_when_gone(protocol)
        try:
            response = await self._plane.infer(model, request, self._config.request_timeout_s)
        finally:
            watch.cancel()
        content, length = encode(response)
        if length is None:
            return 200, _JSON, content
        return (
            200,
            [("content-type", "application/octet-stream"), ("inference-header-content-length", str(length))],
            content,
        )

    async def _body(self, scope: Any, protocol: HttpProtocol) -> bytes:
        """The request's body, read within its time and bound.

        Raises:
            TooLargeError: it says so, or turns out so.
            RequestError: it did not come in time.
        """
        most = self._config.max_body_bytes
        stated = scope.headers.get("content-length")
        if stated is not None and int(stated) > most:  # the HTTP layer has refused what is no number
            raise TooLargeError(f"a body of {stated} bytes; at most {most} are read")
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                if stated is not None:
                    return await protocol()
                body = bytearray()  # and not a list of pieces: a flood of tiny ones would take many times their size
                async for piece in protocol:
                    body += piece
                    if len(body) > most:
                        raise TooLargeError(f"the body has more than {most} bytes")
                return bytes(body)
        except TimeoutError:
            raise RequestError("the body did not come in time") from None
        except RuntimeError:  # RSGI's "transport is closed"
            raise ConnectionError("the client has gone") from None

    def _health(self, status: int) -> Answer:
        return _answer(status, {"live": True, "ready": self._plane.ready})

    def _refusal(self, error: HeadwayError) -> Answer:
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
        headers = [*_JSON, ("retry-after", "1")] if isinstance(error, FullError) else _JSON
        if status == 500:
            return self._bug(error)
        return status, headers, _error_body(error)

    def _bug(self, error: BaseException) -> Answer:
        """What went wrong is for the log; the caller gets the id that finds it there."""
        number = request_id()
        logger.error("request failed", exc_info=error, extra={"fields": {"request_id": number}})
        text = str(error) if isinstance(error, HeadwayError) else "internal error"
        return _answer(500, {"error": f"{text} (request {number})"})

    def _count(self, status: int) -> None:
        counter = self._statuses.get(status)
        if counter is None:
            counter = self._statuses[status] = self._plane.metrics.responses.labels(str(status))
        counter.inc()


_STATUSES: tuple[tuple[type[HeadwayError], int], ...] = (
    (NotFoundError, 404),
    (WrongMethodError, 405),
    (TooLargeError, 413),
    (UnsupportedError, 501),
    (RequestError, 400),
    (UnavailableError, 503),
)


def _require(scope: Any, method: str) -> None:
    if scope.method != method:
        raise WrongMethodError(f"this path takes {method}, not {scope.method[:20]}")


def _answer(status: int, document: Any) -> Answer:
    return status, _JSON, json.dumps(document).encode()


def _error_body(error: HeadwayError) -> bytes:
    text = f"{error.where}: {error.message}" if error.where else error.message
    return json.dumps({"error": f"{text}. {error.remedy}" if error.remedy else text}).encode()


def _cancel_when_gone(protocol: HttpProtocol) -> "asyncio.Task[None]":
    """Cancel the running task if its client leaves: work that nobody waits for is dropped."""
    task = asyncio.current_task()

    async def watch() -> None:
        with contextlib.suppress(RuntimeError):
            await protocol.client_disconnect()
            if task is not None:
                task.cancel()

    return asyncio.get_running_loop().create_task(watch())
