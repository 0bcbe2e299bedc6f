"""The gRPC calls of the model repository: its index, and models loaded and unloaded."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from headway.serve import describe
from headway.serve.errors import UnsupportedError
from headway.serve.extensions import Extensions
from headway.serve.messages import filled, message

Context = Any  # grpc.aio.ServicerContext, which has no types
Call = Callable[[Any, Context], Awaitable[Any]]


def calls(extensions: Extensions) -> Mapping[str, Call]:
    """Every call by its name."""

    async def index(request: Any, _context: Context) -> Any:
        _check_repository(request.repository_name)
        models = describe.index(extensions.plane, ready=request.ready)
        return filled("RepositoryIndexResponse", {"models": models})

    async def load(request: Any, _context: Context) -> Any:
        extensions.control.check()
        name = _model(request)
        await extensions.load(name, _parameters(request))
        return message("inference.RepositoryModelLoadResponse")(model_name=name, isLoaded=True)

    async def unload(request: Any, _context: Context) -> Any:
        extensions.control.check()
        name = _model(request)
        await extensions.unload(name, _parameters(request))
        return message("inference.RepositoryModelUnloadResponse")(model_name=name, isUnloaded=True)

    return {"RepositoryIndex": index, "RepositoryModelLoad": load, "RepositoryModelUnload": unload}


def _model(request: Any) -> str:
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
