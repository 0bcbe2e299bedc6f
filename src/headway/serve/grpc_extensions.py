"""The gRPC calls of the extensions: log and trace settings, shared memory."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from headway.serve.extensions import Extensions
from headway.serve.messages import filled

Context = Any  # grpc.aio.ServicerContext, which has no types
Call = Callable[[Any, Context], Awaitable[Any]]


def calls(extensions: Extensions) -> Mapping[str, Call]:
    """Every call by its name."""

    async def log(request: Any, _context: Context) -> Any:
        given = {name: _chosen(value) for name, value in request.settings.items()}
        return filled("LogSettingsResponse", {"settings": _values(extensions.log(given))})

    async def trace(request: Any, _context: Context) -> Any:
        given = {name: list(value.value) or None for name, value in request.settings.items()}
        found = extensions.trace_setting(request.model_name, given)
        texts = {name: {"value": value if isinstance(value, list) else [value]} for name, value in found.items()}
        return filled("TraceSettingResponse", {"settings": texts})

    async def status(request: Any, _context: Context) -> Any:
        found = extensions.status(request.name)
        return filled("SystemSharedMemoryStatusResponse", {"regions": {one["name"]: one for one in found}})

    async def register(request: Any, _context: Context) -> Any:
        given = {"key": request.key, "offset": request.offset, "byte_size": request.byte_size}
        return filled("SystemSharedMemoryRegisterResponse", extensions.register(request.name, given))

    async def unregister(request: Any, _context: Context) -> Any:
        return filled("SystemSharedMemoryUnregisterResponse", extensions.unregister(request.name))

    async def cuda(_request: Any, _context: Context) -> Any:
        extensions.cuda()

    return {
        "LogSettings": log,
        "TraceSetting": trace,
        "SystemSharedMemoryStatus": status,
        "SystemSharedMemoryRegister": register,
        "SystemSharedMemoryUnregister": unregister,
        "CudaSharedMemoryStatus": cuda,
        "CudaSharedMemoryRegister": cuda,
        "CudaSharedMemoryUnregister": cuda,
    }


def _chosen(value: Any) -> Any:
    field = value.WhichOneof("parameter_choice")
    return getattr(value, field) if field else None


def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
    fields = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {name: {fields[type(value)]: value} for name, value in settings.items()}
