"""The gRPC side of the Open Inference Protocol, on grpcio's asyncio server in the event loop of the data plane.

Sources: KServe `open-inference-protocol/specification/protocol/inference_grpc.md`; gRPC's health checking protocol
(`grpc/doc/health-checking.md`). Messages are parsed here and not by grpcio, so that one that is none is answered
INVALID_ARGUMENT and counted like any other.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from headway.core.errors import HeadwayError, RequestError
from headway.serve import describe, grpc_tensors
from headway.serve.config import ServeConfig
from headway.serve.control import Control
from headway.serve.dataplane import DataPlane, tenant
from headway.serve.errors import (
    DeadlineError,
    ForbiddenError,
    FullError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from headway.serve.messages import message, methods
from headway.serve.refusals import failure, refusal
from headway.serve.repository import Repository
from headway.serve.selection import check_unload, read_load

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

_LOOK_S = 1.0  # how often a watcher of health is told of a change
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

    def __init__(
        self, plane: DataPlane, repository: Repository, control: Control, config: ServeConfig, address: str
    ) -> None:
        self._plane = plane
        self._repository = repository
        self._control = control
        self._timeout_s = config.request_timeout_s
        self._draining = asyncio.Event()
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=config.max_connections,
            options=[
                ("grpc.max_receive_message_length", config.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.server_handshake_timeout_ms", int(config.header_timeout_s * 1000)),
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
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_load,
            "RepositoryModelUnload": self._repository_unload,
        }
        return {
            method.name: grpc.unary_unary_rpc_method_handler(self._answering(method.request, calls[method.name]))
            for method in methods(SERVICE)
        }

    def _answering(self, kind: Any, call: Call) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """A handler that answers whatever happens, and counts how."""

        async def answer(content: bytes, context: Context) -> bytes:
            count = self._plane.metrics.replied
            try:
                reply: bytes = (await call(_parsed(kind, content), context)).SerializeToString()
            except asyncio.CancelledError:
                count("CANCELLED")
                raise
            except Exception as error:  # noqa: BLE001  (a bug must not take the connection with it)
                code, text = _refusal(error)
            else:
                count("OK")
                return reply
            count(code.name)
            await context.abort(code, text[:_MOST_DETAILS])
            raise AssertionError  # abort raises

        return answer

    # Calls

    async def _model_infer(self, request: Any, context: Context) -> Any:
        model = self._plane.model(request.model_name, request.model_version or None)
        left = context.time_remaining()
        timeout_s = self._timeout_s if left is None else min(self._timeout_s, left)
        asked = grpc_tensors.decode(request)
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                asked.tenant = tenant(value)
        return grpc_tensors.encode(await model.infer(asked, timeout_s))

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
        return message("inference.ServerMetadataResponse")(**describe.server())

    async def _model_metadata(self, request: Any, _context: Context) -> Any:
        return _filled("ModelMetadataResponse", self._plane.metadata(request.name, request.version or None))

    async def _model_config(self, request: Any, _context: Context) -> Any:
        model = self._plane.model(request.name, request.version or None)
        return _filled("ModelConfigResponse", {"config": describe.config(model)})

    async def _model_statistics(self, request: Any, _context: Context) -> Any:
        return _filled("ModelStatisticsResponse", describe.statistics(self._plane, request.name, request.version))

    async def _repository_index(self, request: Any, _context: Context) -> Any:
        _check_repository(request.repository_name)
        return _filled("RepositoryIndexResponse", {"models": describe.index(self._plane, ready=request.ready)})

    async def _repository_load(self, request: Any, _context: Context) -> Any:
        self._control.check()
        name = _repository_model(request)
        selection, archive = read_load(_parameters(request))
        await self._repository.load(name, selection, archive)
        return message("inference.RepositoryModelLoadResponse")(model_name=name, isLoaded=True)

    async def _repository_unload(self, request: Any, _context: Context) -> Any:
        self._control.check()
        name = _repository_model(request)
        check_unload(_parameters(request))
        await self._repository.unload(name)
        return message("inference.RepositoryModelUnloadResponse")(model_name=name, isUnloaded=True)

    # Health

    def _health(self) -> dict[str, Any]:
        kinds = {method.name: method for method in methods(HEALTH)}
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._answering(kinds["Check"].request, self._check)),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._watch,
                request_deserializer=kinds["Watch"].request.FromString,
                response_serializer=kinds["Watch"].response.SerializeToString,
            ),
        }

    async def _check(self, request: Any, _context: Context) -> Any:
        status = self._status(request.service)
        if status == "SERVICE_UNKNOWN":
            raise NotFoundError(f"no service is called {request.service[:100]!r}")
        return message("grpc.health.v1.HealthCheckResponse")(status=status)

    async def _watch(self, request: Any, _context: Context) -> AsyncIterator[Any]:
        """The status now and whenever it changes; it ends as the server shuts down, which would wait for it else."""
        told = None
        while True:
            draining = self._draining.is_set()
            if (status := self._status(request.service)) != told:
                yield message("grpc.health.v1.HealthCheckResponse")(status=status)
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


def _parsed(kind: Any, content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError:
        raise RequestError(f"the request is no {kind.DESCRIPTOR.full_name}") from None


def _filled(name: str, document: Mapping[str, Any]) -> Any:
    return json_format.ParseDict(document, message(f"inference.{name}")())


def _repository_model(request: Any) -> str:
    """The model's name, where Triton's message has it or where KServe's has."""
    if request.model_name:
        _check_repository(request.repository_name)
    name: str = request.model_name or request.repository_name
    return name


def _check_repository(name: str) -> None:
    if name:
        raise UnsupportedError(f"there is one repository, which has no name, and not {name[:100]!r}")


def _parameters(request: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in request.parameters.items()
    }


def _refusal(error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, HeadwayError):
        for kind, code in _CODES:
            if isinstance(error, kind):
                return code, refusal(error)
    return grpc.StatusCode.INTERNAL, failure(error)
