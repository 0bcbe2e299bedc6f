"""What the wires share beside inference: the repository, shared memory regions, settings, and who may change them.

Every method is one call of the protocol, of either wire, and answers with the document that the REST API sends.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from headway.serve.aside import Aside
from headway.serve.config import ServeConfig
from headway.serve.control import Control
from headway.serve.dataplane import DataPlane
from headway.serve.errors import UnsupportedError
from headway.serve.repository import Repository
from headway.serve.selection import check_unload, read_load
from headway.serve.settings import TraceSettings, change_log, log_settings
from headway.serve.shared_memory import Regions

Document = dict[str, Any]


class Extensions:
    """Attributes:
    plane: of the models.
    control: guards every change.
    aside: threads for what takes too long on the event loop.
    regions: of system shared memory.
    trace: which requests are traced.
    """

    def __init__(self, plane: DataPlane, repository: Repository, control: Control, config: ServeConfig) -> None:
        self.plane = plane
        self.control = control
        self.aside = Aside()
        self._repository = repository
        tracer = plane.observer.tracer
        self.trace = TraceSettings(tracer.sampling if tracer else None)
        self.regions = Regions(
            config.shared_memory_prefix if config.shared_memory else None,
            most=config.shared_memory_regions,
            most_bytes=config.max_body_bytes,
        )

    @property
    def names(self) -> list[str]:
        """Of those protocol extensions that are only there under some settings."""
        return ["system_shared_memory"] * self.regions.on + ["trace"] * (self.trace.sampling is not None)

    def close(self) -> None:
        """Let threads and shared memory go."""
        self.aside.close()
        self.regions.close()

    async def load(self, model: str, parameters: Mapping[str, object]) -> None:
        """Load a model, or load it anew; `control` has been asked."""
        await self._repository.load(model, *read_load(parameters))

    async def unload(self, model: str, parameters: Mapping[str, object]) -> None:
        """Stop serving a model; `control` has been asked."""
        check_unload(parameters)
        await self._repository.unload(model)

    def log(self, given: Mapping[str, object], headers: Any = None) -> Document:
        """The log's settings, once those given are changed. `headers` are of an HTTP request."""
        if given:
            self.control.check(headers)
            change_log(given)
        return log_settings()

    def trace_setting(self, model: str, given: Mapping[str, object], headers: Any = None) -> Document:
        """The trace settings of a model, or ("") of all models, once those given are changed."""
        if model:
            self.plane.served(model)
        if given:
            self.control.check(headers)
            if model:
                raise UnsupportedError("traces are set for all models together", remedy="Leave the model out.")
            self.trace.change(given)
        return self.trace.values()

    def status(self, region: str, headers: Any = None) -> list[Document]:
        """One region of shared memory, or all."""
        self.control.check(headers)
        return self.regions.status(region)

    def register(self, region: str, given: Mapping[str, object], headers: Any = None) -> Document:
        """Register a region of shared memory."""
        self.control.check(headers)
        self.regions.register(region, given.get("key"), given.get("offset", 0), given.get("byte_size"))
        return {}

    def unregister(self, region: str, headers: Any = None) -> Document:
        """Unregister a region, or all."""
        self.control.check(headers)
        self.regions.unregister(region)
        return {}

    def cuda(self) -> NoReturn:
        """Any call for CUDA shared memory."""
        raise UnsupportedError(
            "CUDA shared memory is not supported: tensors are read on the CPU",
            remedy="Use system shared memory, or send them over the wire.",
        )
