"""One served model: the one path of every request, whatever wire it came over.

An adapter (`rest.py`, `grpc_service.py`) decodes its wire's bytes into an `InferRequest`, finds the model in the
`DataPlane`, calls its `infer`, and encodes the `InferResponse`. Nothing here knows of HTTP.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from time import perf_counter
from typing import Any

from headway.core.errors import HeadwayError, RequestError
from headway.core.tensors import Array, TensorSpec
from headway.observe.cache_counts import CacheCounts
from headway.observe.metrics import ModelMetrics, Outcome
from headway.observe.requests import CURRENT
from headway.serve.batcher import BatchLimits
from headway.serve.cache import AnswerCache
from headway.serve.cache_key import Keys
from headway.serve.cache_store import AnswerStore
from headway.serve.cache_worth import Worth
from headway.serve.classification import classify
from headway.serve.fields import Slice
from headway.serve.loading import Loaded
from headway.serve.refusals import outcome_of
from headway.serve.runner import Runner
from headway.serve.signature import Signature
from headway.serve.stages import Stages


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """An output that the caller asks for.

    Attributes:
        binary: how it is to travel.
        classes: how many of its greatest values, with index and label, stand for it; 0 is the output itself.
        region: of shared memory that it is to be written to, by the adapter.
    """

    name: str
    binary: bool
    classes: int = 0
    region: Slice | None = None


@dataclass(slots=True)
class InferRequest:
    """One inference request.

    Attributes:
        inputs: by name; BYTES elements are `bytes`.
        outputs: what to answer; None is every output.
        binary: how an output travels that `outputs` does not name.
        id: of the caller's choosing; it comes back.
        timeout_s: the caller's own bound, where it gave one.
        priority: 1 is the highest; 0 is the server's default.
        tenant: see `tenant`. Requests of two tenants never share a cached or running answer.
    """

    inputs: Mapping[str, Array]
    outputs: Sequence[OutputRequest] | None = None
    binary: bool = False
    id: str = ""
    timeout_s: float | None = None
    priority: int = 0
    tenant: str = ""


def tenant(credentials: str) -> str:
    """Who asks, as far as a shared answer goes: SHA-256 of the Authorization header, "" where there is none."""
    return sha256(credentials.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(slots=True)
class InferResponse:
    """The answer: outputs in the order asked for, each with its specification and whether it travels as binary."""

    model: str
    version: str
    id: str
    outputs: list[tuple[TensorSpec, Array, bool]]


_MANY = 1 << 14  # elements; to find and write the greatest of more takes a thread
_Asked = tuple[TensorSpec, bool, int]  # an output, whether it travels as binary, and its classes


class ServedModel:
    """One version of a model that takes requests. Made in the event loop it answers in.

    Attributes:
        inputs: what a request brings; where processing is declared, it may bring the model's own instead.
        outputs: what an answer holds; where processing is declared, the model's own can be asked for too.
        digest: of its bundle.
        choice: which variant answers, with how many threads, and why.
        padding: whether requests of different lengths share runs, where the bundle declares how; else None.
        max_batch_rows: rows that a run may gather from several requests; 0 where requests share no runs.
        ready: whether it answers: its golden samples matched, and it is not being unloaded.
    """

    def __init__(
        self, loaded: Loaded, limits: BatchLimits, metrics: ModelMetrics, store: AnswerStore | None = None,
        *, processing_threads: int = 1,
    ) -> None:  # fmt: skip
        manifest = loaded.bundle.manifest
        self.name, self.version, self.digest = manifest.name, loaded.version, loaded.bundle.digest
        served = loaded.processing or manifest
        self.inputs, self.outputs = served.inputs, served.outputs
        self.variant = loaded.variant
        self.platform = f"{loaded.variant.runtime}_{loaded.variant.format}"
        self.choice = loaded.choice
        self.limits, self.metrics = limits, metrics
        self._labels = manifest.labels
        self._specs = {spec.name: spec for spec in (*manifest.outputs, *self.outputs)}
        # Only where every tensor has a row a request can the rows of several be told apart again.
        shares_runs = all(spec.batched for spec in (*manifest.inputs, *manifest.outputs))
        self.max_batch_rows = limits.max_rows if shares_runs else 0
        padding = loaded.padding if shares_runs else None
        self.padding = padding is not None if manifest.padding else None
        self._signature = Signature(manifest.inputs, shares_runs=shares_runs, padding=padding)
        name = f"{self.name}:{self.version}"
        self._runner = Runner(
            loaded.session, limits, whole_rows=shares_runs, watcher=metrics, name=name,
            padding=padding, durations=loaded.durations,
        )  # fmt: skip
        self._stages: Stages | None = None
        if loaded.processing is not None:
            self._stages = Stages(
                loaded.processing, threads=processing_threads, queue_rows=limits.queue_rows, metrics=metrics, name=name
            )
        metrics.queued_rows = lambda: self._runner.queued_rows + (self._stages.rows if self._stages else 0)
        metrics.file_bytes = loaded.file_bytes
        self._answers = self._runs = None
        if store is not None:
            cache = partial(_cache, store, loaded, metrics)
            self._answers = cache("answer", metrics.compute)
            self._runs = cache("model", metrics.ran) if self._stages is not None else None
        self.ready = metrics.ready = True
        self._inside = 0
        self._emptied: asyncio.Event | None = None

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """What the Open Inference Protocol calls model metadata."""

        def tensor(spec: TensorSpec) -> dict[str, Any]:
            return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}

        return {
            "name": self.name,
            "versions": list(versions),
            "platform": self.platform,
            "inputs": [tensor(spec) for spec in self.inputs],
            "outputs": [tensor(spec) for spec in self.outputs],
        }

    async def infer(self, request: InferRequest, timeout_s: float) -> InferResponse:
        """Answer one request and count how it ended.

        Raises what `Signature.check`, `Runner.infer` and the calls of `Stages` raise.
        """
        began = perf_counter()
        outcome: Outcome = "failed"
        self._inside += 1
        if (record := CURRENT.get()) is not None:
            record.model, record.version, record.entered = self.name, self.version, began
        try:
            asked = self._asked(request)
            if request.timeout_s is not None:
                timeout_s = min(timeout_s, request.timeout_s)
            outputs = await self._outputs(request, asked, timeout_s)
            outcome = "ok"
        except (HeadwayError, asyncio.CancelledError) as error:
            outcome = outcome_of(error)
            raise
        finally:
            ended = perf_counter()
            self.metrics.answered(outcome, ended - began)
            if record is not None:
                record.outcome, record.answered = outcome, ended
            self._inside -= 1
            if self._emptied is not None and not self._inside:
                self._emptied.set()
        long = any(classes and outputs[spec.name].size > _MANY for spec, _, classes in asked)
        told = await asyncio.to_thread(self._told, asked, outputs) if long else self._told(asked, outputs)
        return InferResponse(self.name, self.version, request.id, told)

    def _told(self, asked: Sequence[_Asked], outputs: Mapping[str, Array]) -> list[tuple[TensorSpec, Array, bool]]:
        return [
            (*classify(spec, outputs[spec.name], classes, self._labels), binary)
            if classes
            else (spec, outputs[spec.name], binary)
            for spec, binary, classes in asked
        ]

    async def _outputs(self, request: InferRequest, asked: Sequence[_Asked], timeout_s: float) -> Mapping[str, Array]:
        """What was asked for, at least: check, (cache), (pre-process), (cache), run, (post-process)."""
        priority = self.limits.priority(request.priority)
        if self._stages is None:
            checked = self._signature.check(request.inputs)
            if self._answers is None:
                return await self._runner.infer(checked, timeout_s, priority)
            run = partial(self._runner.infer, checked)
            return await self._answers.get_or_run(checked.inputs, request.tenant, run, timeout_s, priority)
        ends = perf_counter() + timeout_s
        prepared = partial(self._prepared, self._stages, request)
        if self._answers is None:
            outputs = await prepared(timeout_s, priority)
        else:
            outputs = await self._answers.get_or_run(request.inputs, request.tenant, prepared, timeout_s, priority)
        return await self._stages.after(outputs, [spec.name for spec, _, _ in asked], ends - perf_counter())

    async def _prepared(
        self, stages: Stages, request: InferRequest, timeout_s: float, priority: int
    ) -> Mapping[str, Array]:
        """The model's outputs for what is prepared first. Cached on this side too: two pictures may be one tensor."""
        ends = perf_counter() + timeout_s
        tensors = await stages.before(request.inputs, timeout_s, self._runner.queued_rows)
        checked, left = self._signature.check(tensors), ends - perf_counter()
        run = partial(self._runner.infer, checked)
        if self._runs is None:
            return await run(left, priority)
        return await self._runs.get_or_run(checked.inputs, request.tenant, run, left, priority)

    async def close(self, drain_s: float) -> None:
        """Finish what came in within `drain_s` seconds, refuse the rest, then free the model."""
        self.ready = False
        end = perf_counter() + drain_s
        if self._inside:  # also what is not in the runner's queue yet
            self._emptied = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), drain_s)
        if self._stages is not None:
            await self._stages.drain(max(end - perf_counter(), 0))
        for cache in filter(None, (self._answers, self._runs)):
            cache.close()
        await self._runner.close(max(end - perf_counter(), 0))
        if self._stages is not None:
            await self._stages.close()

    def _asked(self, request: InferRequest) -> list[_Asked]:
        if request.outputs is None:
            return [(spec, request.binary, 0) for spec in self.outputs]
        asked = []
        for output in request.outputs:
            if output.name not in self._specs:
                raise RequestError(
                    f"no output is called {output.name[:100]!r}", remedy=f"The outputs are: {', '.join(self._specs)}."
                )
            asked.append((self._specs[output.name], output.binary, output.classes))
        return asked


def _cache(
    store: AnswerStore, loaded: Loaded, metrics: ModelMetrics, boundary: str, cost: Callable[[], tuple[float, int]]
) -> AnswerCache:
    """A cache at one boundary, whose hits save what `cost` tells."""
    name = f"{loaded.bundle.manifest.name}:{loaded.version}"
    keys = Keys(loaded.bundle.digest, loaded.variant.id, loaded.version, boundary)
    return AnswerCache(store, keys, Worth(cost), metrics.caches.setdefault(boundary, CacheCounts()), name)
