"""The data plane: every model that is served, by name and version, and what is known of those that are not."""

import asyncio
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from headway.core.errors import HeadwayError
from headway.observe.metrics import Metrics
from headway.observe.observer import Observer
from headway.serve.cache_store import AnswerStore
from headway.serve.errors import NotFoundError, UnavailableError
from headway.serve.served_model import ServedModel


class State(NamedTuple):
    """Where a version stands that does not answer, and why."""

    state: Literal["LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str = ""


class DataPlane:
    """Every model that is served.

    Attributes:
        draining: whether the server is shutting down: it is not ready, but still answers what it has.
        states: of versions that are not served, by model and version; a version that is not known yet is "".
        store: of answers, for the models that are added; None where nothing is cached.
    """

    def __init__(self, metrics: Metrics, store: AnswerStore | None = None, observer: Observer | None = None) -> None:
        self.metrics = metrics
        self.store = store
        self.observer = observer or Observer(metrics)
        self.draining = False
        self.states: dict[str, dict[str, State]] = {}
        self._models: dict[str, dict[str, ServedModel]] = {}  # the latest version comes last

    @property
    def ready(self) -> bool:
        """Whether every model answers and the server is not shutting down."""
        served = self.served()
        return bool(served) and not self.draining and all(model.ready for model in served)

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return list(self._models)

    def replace(self, name: str, models: Iterable[ServedModel]) -> list[ServedModel]:
        """Serve exactly these versions of a model from now on. Returns those that are served no longer, to be closed.

        A request that is under way stays with the version it came to; the next one finds the new.
        """
        before = self._models.get(name, {})
        now = {model.version: model for model in sorted(models, key=lambda model: int(model.version))}
        if now:
            self._models[name] = now
        else:
            self._models.pop(name, None)
        for version in before.keys() - now.keys():
            before[version].metrics.ready = False
        return [model for model in before.values() if now.get(model.version) is not model]

    def versions(self, name: str) -> dict[str, ServedModel]:
        """The versions of a model that are served, the latest last."""
        return self._models.get(name, {})

    def served(self, name: str = "", version: str = "") -> list[ServedModel]:
        """Every version of every model, or those of one name, or one of these. Raises `NotFoundError`."""
        if version:
            return [self.model(name, version)]
        if name:
            self.model(name)
        return [model for called in [name] * bool(name) or self.names for model in self._models[called].values()]

    def model(self, name: str, version: str | None = None) -> ServedModel:
        """The model called `name`, in its latest version unless one is asked for.

        Raises:
            NotFoundError: there is none, or it is not loaded.
            UnavailableError: it is being loaded for the first time.
        """
        versions = self._models.get(name)
        if versions is None:
            raise self._absent(name)
        if version is None:
            return versions[next(reversed(versions))]
        if version not in versions:
            raise NotFoundError(
                f"model {name!r} has no version {version[:20]!r}", remedy=f"It has: {', '.join(versions)}."
            )
        return versions[version]

    def metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Model metadata of the Open Inference Protocol."""
        return self.model(name, version).metadata(list(self._models[name]))

    async def close(self, drain_s: float = 0) -> None:
        """Accept nothing more, finish what was accepted within `drain_s` seconds, refuse the rest, free every model."""
        self.draining = True
        served = self.served()
        for model in served:
            model.metrics.ready = False
        await asyncio.gather(*(model.close(drain_s) for model in served))

    def _absent(self, name: str) -> HeadwayError:
        states = self.states.get(name)
        if states is None:
            return NotFoundError(f"no model is called {name[:100]!r}", remedy="GET /v2/models lists them.")
        state, reason = list(states.values())[-1]
        if state == "LOADING":
            return UnavailableError(f"model {name!r} is being loaded")
        return NotFoundError(f"model {name!r} is not loaded: {reason or state.lower()}")
