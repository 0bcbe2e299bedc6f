"""The gRPC side of the Open Inference Protocol, on grpcio's asyncio server in the event loop of the data plane.

Sources: KServe `open-inference-protocol/specification/protocol/inference_grpc.md`; gRPC's health checking protocol
(`grpc/doc/health-checking.md`). Messages are parsed here and not by grpcio, so that one that is none is answered
INVALID_ARGUMENT and counted like any other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from headway.core.errors import HeadwayError, RequestError
from headway.serve import describe, grpc_tensors
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
from headway.serve.grpc_extensions import calls as extension_calls
from headway.serve.grpc_repository import calls as repository_calls
from headway.serve.grpc_stream import Stream
from headway.serve.messages import filled, message, methods, parsed
from headway.serve.refusals import failure, outcome_of, refusal
from headway.serve.served_model import tenant

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

_LOOK_S = 1.0  # how often a watcher of health is told of a change
_MOST_CALLS = 256  # on one connection; a client keeps more back by itself
_MOST_DETAILS = 1000  # characters; they travel in a header, and clients bound those

Context = Any  # grpc.aio.ServicerContext, which has no types
Call = Callable[[Any, Context], Awaitable[Any]]

_CODES: tuple[tuple[type[HeadwayError], grpc.StatusCode], ...] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ForbiddenError, grpc.StatusCode.PERMISSION_DENIED),
    (TooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnsupportedError, grpc.StatusCode.UNIMPLEMENTED),
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (FullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
)


class GrpcServer:
    """Answers gRPC calls at `address` once started. Made in the event loop it answers in."""

    def __init__(self, plane: DataPlane, extensions: Extensions, config: ServeConfig, address: str) -> None:
        self._plane = plane
        self._extensions = extensions
        self._config = config
        self._limits = RequestLimits(tensors=config.max_tensors)
        self._open = 0  # calls that stay open
        self._streams: set[Stream] = set()
        self._draining = asyncio.Event()
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=config.max_connections,
            options=[
                ("grpc.max_receive_message_length", config.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.server_handshake_timeout_ms", int(config.header_timeout_s * 1000)),
                ("grpc.max_concurrent_streams", min(config.max_connections, _MOST_CALLS)),
                ("grpc.so_reuseport", 1),  # the address is held by a socket that does not listen
            ],
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, self._inference()),
                grpc.method_handlers_generic_handler(HEALTH, self._health()),
            )
        )
        self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, answer what was accepted; after `grace_s` seconds, cancel what is left."""
        self._draining.set()
        for stream in self._streams:
            stream.finish()
        await self._server.stop(grace_s)

    def _inference(self) -> dict[str, Any]:
        calls: Mapping[str, Call] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            **repository_calls(self._extensions),
            **extension_calls(self._extensions),
        }
        kinds = {method.name: method.request for method in methods(SERVICE)}
        handlers = {name: self._answering(name, kinds[name], call) for name, call in calls.items()}
        return handlers | {"ModelStreamInfer": self._staying(self._model_stream_infer)}

    def _answering(self, name: str, kind: Any, call: Call) -> Any:
        """A handler that answers whatever happens, and counts how.

        It takes a stream of requests, of which there is one: to wait for it ourselves is the only way to wait no longer
        than is allowed.
        """

        observer, count = self._plane.observer, self._plane.metrics.replied
        traced = name.endswith("Infer")

        async def answer(_requests: Any, context: Context) -> bytes:
            record = observer.begin(name, *_trace(context), traced=traced)
            if record.parent is not None:
                context.set_trailing_metadata((("traceresponse", record.response()),))
            request = None
            try:
                request = parsed(kind, await self._read(context))
                reply: bytes = (await call(request, context)).SerializeToString()
            except asyncio.CancelledError:
                count("CANCELLED")
                observer.end(record, "CANCELLED", "cancelled")
                raise
            except Exception as error:  # noqa: BLE001  (a bug must not take the connection with it)
                code, text = _refusal(error)
                outcome, record.named = outcome_of(error), _named(request)
            else:
                count("OK")
                observer.end(record, "OK", "ok")
                return reply
            count(code.name)
            observer.end(record, code.name, outcome)
            await context.abort(code, text[:_MOST_DETAILS])
            raise AssertionError  # abort raises

        return grpc.stream_unary_rpc_method_handler(answer)

    def _staying(self, run: Callable[[Context], Awaitable[None]]) -> Any:
        """A handler of a call that stays open. There are only so many: idle ones must leave room for requests."""

        async def answer(_requests: Any, context: Context) -> None:
            if self._open >= self._config.max_streams:
                await self._abort(context, FullError(f"{self._open} streams are open, and no more are taken"))
            self._open += 1
            try:
                await run(context)
            except asyncio.CancelledError:
                self._plane.metrics.replied("CANCELLED")
                raise
            except Exception as error:  # noqa: BLE001
                await self._abort(context, error)
            else:
                self._plane.metrics.replied("OK")
            finally:
                self._open -= 1

        return grpc.stream_stream_rpc_method_handler(answer)

    async def _read(self, context: Context) -> bytes:
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                content = await context.read()
        except TimeoutError:
            raise RequestError("the request did not come in time") from None
        if content is grpc.aio.EOF:
            raise RequestError("the call brought no request")
        found: bytes = content
        return found

    async def _abort(self, context: Context, error: Exception) -> None:
        code, text = _refusal(error)
        self._plane.metrics.replied(code.name)
        await context.abort(code, text[:_MOST_DETAILS])

    # Calls

    async def _model_infer(self, request: Any, context: Context) -> Any:
        model = self._plane.model(request.model_name, request.model_version or None)
        left, timeout_s = context.time_remaining(), self._config.request_timeout_s
        given = request, self._limits, self._extensions.regions
        long = grpc_tensors.is_long(request)
        asked = await self._extensions.aside.run(grpc_tensors.decode, *given) if long else grpc_tensors.decode(*given)
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                asked.tenant = tenant(value)
        response = await model.infer(asked, timeout_s if left is None else min(timeout_s, left))
        placed = None
        if asked.outputs is not None:
            placed = self._extensions.regions.place(asked.outputs, response.outputs)
        return grpc_tensors.encode(response, placed)

    async def _model_stream_infer(self, context: Context) -> None:
        told = lambda error: _refusal(error)[1]  # noqa: E731
        stream = Stream(context, self._one_of_a_stream, told, self._config.stream_requests)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    async def _server_live(self, _request: Any, _context: Context) -> Any:
        return message("inference.ServerLiveResponse")(live=True)

    async def _server_ready(self, _request: Any, _context: Context) -> Any:
        return message("inference.ServerReadyResponse")(ready=self._plane.ready)

    async def _model_ready(self, request: Any, _context: Context) -> Any:
        try:
            model = self._plane.model(request.name, request.version or None)
            ready = model.ready and not self._plane.draining
        except (NotFoundError, UnavailableError):  # Triton's clients expect no error
            ready = False
        return message("inference.ModelReadyResponse")(ready=ready)

    async def _server_metadata(self, _request: Any, _context: Context) -> Any:
        return message("inference.ServerMetadataResponse")(**describe.server(self._extensions.names))

    async def _model_metadata(self, request: Any, _context: Context) -> Any:
        return filled("ModelMetadataResponse", self._plane.metadata(request.name, request.version or None))

    async def _model_config(self, request: Any, _context: Context) -> Any:
        model = self._plane.model(request.name, request.version or None)
        return filled("ModelConfigResponse", {"config": describe.config(model)})

    async def _model_statistics(self, request: Any, _context: Context) -> Any:
        return filled("ModelStatisticsResponse", describe.statistics(self._plane, request.name, request.version))

    async def _one_of_a_stream(self, request: Any, context: Context) -> Any:
        """Each request of a stream is seen as one, and has the call's traceparent."""
        observer = self._plane.observer
        record = observer.begin("ModelStreamInfer", *_trace(context), traced=True)
        record.named = _named(request)
        try:
            reply = await self._model_infer(request, context)
        except BaseException as error:
            outcome = outcome_of(error)
            observer.end(record, "CANCELLED" if outcome == "cancelled" else _code(error).name, outcome)
            raise
        observer.end(record, "OK", "ok")
        return reply

    # Health

    def _health(self) -> dict[str, Any]:
        kinds = {method.name: method for method in methods(HEALTH)}
        return {
            "Check": self._answering("Check", kinds["Check"].request, self._check),
            "Watch": self._staying(self._watch),
        }

    async def _check(self, request: Any, _context: Context) -> Any:
        status = self._status(request.service)
        if status == "SERVICE_UNKNOWN":
            raise NotFoundError(f"no service is called {request.service[:100]!r}")
        return message("grpc.health.v1.HealthCheckResponse")(status=status)

    async def _watch(self, context: Context) -> None:
        """The status now and whenever it changes; it ends as the server shuts down, which would wait for it else."""
        request = parsed(message("grpc.health.v1.HealthCheckRequest"), await self._read(context))
        told = None
        while True:
            draining = self._draining.is_set()
            if (status := self._status(request.service)) != told:
                await context.write(message("grpc.health.v1.HealthCheckResponse")(status=status).SerializeToString())
                told = status
            if draining:
                return
            try:
                await asyncio.wait_for(self._draining.wait(), _LOOK_S)
            except TimeoutError:
                continue

    def _status(self, service: str) -> str:
        if service not in ("", SERVICE):
            return "SERVICE_UNKNOWN"
        return "SERVING" if self._plane.ready else "NOT_SERVING"


def _trace(context: Context) -> tuple[str | None, str | None]:
    """A call's traceparent, of which grpcio keeps the last, and tracestate."""
    metadata = dict(context.invocation_metadata() or ())
    return metadata.get("traceparent"), metadata.get("tracestate")


def _named(request: Any) -> dict[str, str]:
    """The model that a request asks for; it may be none, or of a kind that asks for no model."""
    return {"model": getattr(request, "model_name", ""), "version": getattr(request, "model_version", "")}


def _refusal(error: Exception) -> tuple[grpc.StatusCode, str]:
    code = _code(error)
    if isinstance(error, HeadwayError) and code is not grpc.StatusCode.INTERNAL:
        return code, refusal(error)
    return code, failure(error)


def _code(error: BaseException) -> grpc.StatusCode:
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
