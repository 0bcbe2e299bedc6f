"""What is served, from where, and the changes of it while requests come in.

A load proves the bundle in a process of its own (`proving.py`), opens what was proved in a worker thread, and only then
moves the traffic, in one step of the event loop: a request finds the old version or the new one, whole. The old one
finishes what it has and is freed. Whatever fails before the move leaves everything as it was.

Changes of one model wait for each other; those of different models go side by side. The states that the repository
index shows are Triton's (`docs/protocol/extension_model_repository.md`).
"""

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

from headway.bundles.bundle import Bundle
from headway.core import heap, machine
from headway.core.errors import HeadwayError
from headway.observe.loads import Loads
from headway.observe.logs import logger
from headway.serve.config import ServeConfig
from headway.serve.dataplane import DataPlane, State
from headway.serve.errors import FullError, LoadError, NotFoundError, UnavailableError
from headway.serve.loading import Loaded, Source, is_reference
from headway.serve.proving import Job, Proof, Prover, open_proven
from headway.serve.refusals import refusal
from headway.serve.selection import EVERYTHING, Archive, Selection
from headway.serve.served_model import ServedModel

_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_AT_ONCE = 2  # bundles that are proved side by side
_MOST_CHANGES = 32  # under way or waiting


class _Entry:
    """One model: where its bundles come from, and the change that is under way.

    Attributes:
        sources: paths and registry references that it was started from; none: its name, in the registry.
        turn: held by the change that is under way.
        users: changes under way or waiting.
        retiring: ends once the versions that the last change took out of service are freed.
    """

    def __init__(self) -> None:
        self.sources: list[Path | str] = []
        self.turn = asyncio.Lock()
        self.users = 0
        self.retiring: asyncio.Task[None] | None = None


class Repository:
    """Loads and unloads the models of a data plane. Made and used in one event loop."""

    def __init__(self, plane: DataPlane, config: ServeConfig) -> None:
        self._plane = plane
        self._config = config
        self._prover = Prover(config.load_timeout_s)
        self._proving = asyncio.Semaphore(_AT_ONCE)
        self._entries: dict[str, _Entry] = {}
        self._changes: set[asyncio.Task[None]] = set()
        self._rows = (1, config.max_batch_rows)
        self._loads = Loads(lambda: {name: len(plane.versions(name)) for name in plane.names})
        plane.metrics.add(self._loads)

    def start(self, loaded: Iterable[tuple[Source, Loaded]]) -> None:
        """Serve what the server was started with, each with the source that a later load reads again."""
        models: dict[str, list[ServedModel]] = {}
        for source, one in loaded:
            model = self._served(one)
            models.setdefault(model.name, []).append(model)
            sources = self._entries.setdefault(model.name, _Entry()).sources
            sources.append(str(source) if is_reference(source) else _path(source))
        for name, versions in models.items():
            self._plane.replace(name, versions)

    async def load(self, name: str, selection: Selection = EVERYTHING, archive: Archive | None = None) -> None:
        """Read the model's source again, or the versions that are asked for, or an archive, and serve what is there.

        Returns once the new versions answer; the old ones may still be finishing. A caller that leaves stops nothing.

        Raises:
            NotFoundError: no such model, neither here nor in the registry.
            LoadError: it does not load, and why; what was served before still is.
            FullError: too many changes wait.
            UnavailableError: the server is shutting down.
        """
        await self._change(name, self._load(name, selection, archive))

    async def unload(self, name: str) -> None:
        """Stop serving every version of a model; returns once it has finished what it had and is freed.

        Raises:
            NotFoundError: no such model.
            FullError: too many changes wait.
            UnavailableError: the server is shutting down.
        """
        await self._change(name, self._unload(name))

    async def close(self) -> None:
        """Stop the changes that are under way; none begins any more."""
        self._prover.close()
        await asyncio.gather(*self._changes, return_exceptions=True)
        retiring = [entry.retiring for entry in self._entries.values() if entry.retiring is not None]
        await asyncio.gather(*retiring, return_exceptions=True)

    async def _change(self, name: str, change: Coroutine[None, None, None]) -> None:
        """Carry a change out in a task of its own, so that a caller who leaves does not stop it halfway."""
        if self._plane.draining or len(self._changes) >= _MOST_CHANGES:
            change.close()
            if self._plane.draining:
                raise UnavailableError("the server is shutting down")
            raise FullError(f"{_MOST_CHANGES} loads and unloads wait already")
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is logged, whoever still waits
        await asyncio.shield(task)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[_Entry]:
        """This model's turn: no other change of it is under way, and nothing of it is being freed."""
        entry = self._entries.setdefault(name, _Entry())
        entry.users += 1
        try:
            async with entry.turn:
                if entry.retiring is not None:
                    await entry.retiring
                if self._plane.draining:
                    raise UnavailableError("the server is shutting down")
                yield entry
        finally:
            entry.users -= 1
            if not entry.users and not self._known(name, entry):
                self._entries.pop(name, None)  # callers choose names

    def _known(self, name: str, entry: _Entry) -> bool:
        return bool(entry.sources or self._plane.versions(name) or self._plane.states.get(name))

    async def _load(self, name: str, selection: Selection, archive: Archive | None) -> None:
        if not _NAME.fullmatch(name):
            raise NotFoundError(f"no model is called {name[:100]!r}")
        async with self._turn(name) as entry:
            began = perf_counter()
            known = self._known(name, entry)
            before = {version: state for version, state in self._plane.states.get(name, {}).items() if version}
            self._plane.states[name] = {**before, "": State("LOADING")}
            try:
                fresh = await self._fresh(name, entry, selection, archive)
            except BaseException as error:
                found = archive is None and not isinstance(error, NotFoundError)
                self._failed(name, before, error, known=known or found)  # a name that a caller made up must not stay
                raise
            self._retire(name, entry, self._plane.replace(name, fresh), None)
            seconds = perf_counter() - began
            self._loads.loaded(name, seconds)
            fields = {"model": name, "versions": list(self._plane.versions(name)), "seconds": round(seconds, 3)}
            logger.info("model loaded", extra={"fields": fields})

    async def _unload(self, name: str) -> None:
        async with self._turn(name) as entry:
            if not self._known(name, entry):
                raise NotFoundError(f"no model is called {name[:100]!r}")
            if not self._plane.versions(name):
                return  # unloaded already, as Triton has it
            self._retire(name, entry, self._plane.replace(name, ()), State("UNAVAILABLE", "unloaded"))
            assert entry.retiring is not None  # noqa: S101
            await entry.retiring
            logger.info("model unloaded", extra={"fields": {"model": name}})

    async def _fresh(
        self, name: str, entry: _Entry, selection: Selection, archive: Archive | None
    ) -> list[ServedModel]:
        """The versions that are to be served, proved and opened, or, where nothing changed of one, the one that is."""
        proofs = await self._prove(name, entry, selection, archive)
        opened: list[Loaded | ServedModel] = []
        try:
            for proof in proofs:
                old = self._plane.versions(name).get(proof.version)
                if old is not None and _same(old, proof):
                    opened.append(old)
                    continue
                opened.append(await self._open(proof))
                if self._plane.draining:
                    raise UnavailableError("the server is shutting down")
        except BaseException as error:
            for one in opened:
                if isinstance(one, Loaded):
                    one.session.close()
            if isinstance(error, HeadwayError) and not isinstance(error, UnavailableError):
                raise LoadError(error.message, where=error.where, remedy=error.remedy) from error
            raise
        return [one if isinstance(one, ServedModel) else self._served(one) for one in opened]

    async def _prove(self, name: str, entry: _Entry, selection: Selection, archive: Archive | None) -> Sequence[Proof]:
        sources = entry.sources or [name]
        paths = tuple(source for source in sources if isinstance(source, Path))
        references = tuple(source for source in sources if isinstance(source, str))
        if selection.of_the_registry:
            if paths:
                raise LoadError("it is served from a path, which holds one version", where=name)
            references = selection.references(name)
        config = self._config
        job = Job(
            name=name,
            paths=paths,
            references=references,
            newest=selection.newest(config.max_versions),
            most=config.max_versions,
            variant=selection.variant or config.variant,
            threads=config.threads,
            choose_seconds=config.choose_seconds,
            public_key=config.public_key.absolute() if config.public_key else None,
            trust_any=config.trust_any,
            rows=self._rows,
            max_pixels=config.max_pixels,
            max_text_bytes=config.max_text_bytes,
        )
        async with self._proving:
            if archive is not None:
                return await asyncio.to_thread(self._prove_archive, job, archive)
            return await asyncio.to_thread(self._prover.prove, job)

    def _prove_archive(self, job: Job, archive: Archive) -> Sequence[Proof]:
        """In a worker thread: prove the archive in place of the model's sources."""
        with tempfile.TemporaryDirectory(prefix="headway-") as folder:
            path = Path(folder) / "model.hw"
            archive.write(path)
            proofs = self._prover.prove(job.model_copy(update={"paths": (path,), "references": ()}))
        if proofs[0].version != archive.version:
            raise LoadError(f"the archive holds version {proofs[0].version}, not {archive.version}", where=job.name)
        return proofs

    async def _open(self, proof: Proof) -> Loaded:
        pool = ThreadPoolExecutor(1, "headway-open")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                pool, open_proven, proof, self._rows, self._config.processing_limits()
            )
        finally:
            pool.shutdown(wait=False)

    def _failed(self, name: str, before: dict[str, State], error: BaseException, *, known: bool) -> None:
        """Note why a load failed, beside what is served and was unloaded."""
        reason = refusal(error) if isinstance(error, HeadwayError) else type(error).__name__
        if known:
            self._plane.states[name] = {**before, "": State("UNAVAILABLE", reason)}
            self._loads.failed(name)
        else:
            del self._plane.states[name]
        logger.warning("model not loaded", extra={"fields": {"model": name, "reason": reason}})

    def _retire(self, name: str, entry: _Entry, old: Sequence[ServedModel], freed: State | None) -> None:
        """Let these versions finish what they have, then free them; `freed` is their state from then on."""
        gone = [model.version for model in old if model.version not in self._plane.versions(name)]
        self._note(name, gone, State("UNLOADING"))

        async def free() -> None:
            results = await asyncio.gather(
                *(model.close(self._config.drain_s) for model in old), return_exceptions=True
            )
            for error in filter(None, results):
                logger.error("model not freed", exc_info=error, extra={"fields": {"model": name}})
            await asyncio.to_thread(heap.trim)
            for version in gone:
                self._plane.metrics.forget(name, version)
            self._note(name, gone, freed)

        entry.retiring = asyncio.get_running_loop().create_task(free())

    def _note(self, name: str, versions: Iterable[str], state: State | None) -> None:
        states = dict.fromkeys(versions, state) if state is not None else {}
        if states:
            self._plane.states[name] = states
        else:
            self._plane.states.pop(name, None)

    def _served(self, loaded: Loaded) -> ServedModel:
        manifest = loaded.bundle.manifest
        limits = self._config.batch_limits(manifest.contract, thread_safe=loaded.session.thread_safe)
        metrics = self._plane.metrics.model(manifest.name, loaded.version)
        threads = self._config.processing_threads or machine.usable_cores()
        return ServedModel(loaded, limits, metrics, self._plane.store, processing_threads=threads)


def _same(model: ServedModel, proof: Proof) -> bool:
    """Whether a model that is served is what was proved."""
    there = (model.digest, model.choice.variant, model.choice.threads)
    return there == (proof.digest, proof.choice.variant, proof.choice.threads)


def _path(source: Source) -> Path:
    return (source.path if isinstance(source, Bundle) else Path(source)).absolute()
