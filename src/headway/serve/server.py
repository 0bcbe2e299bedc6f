"""The server: opens bundles, proves them, and answers over HTTP and gRPC until it is told to stop.

Start-up: open, verify, load, replay the golden samples, choose among the variants, warm up; only then does it listen,
so a bundle that fails never has an address. Shutdown: readiness goes false, no connection is accepted any more, what
was accepted is answered within the drain time, and then the models are freed.
"""

import asyncio
import gc
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError as FuturesCancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop
from granian.constants import HTTPModes
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from headway.core.config import Source as ConfigSource
from headway.core.config import validate
from headway.core.errors import ConfigError
from headway.observe import traces
from headway.observe.logs import logger
from headway.observe.metrics import Metrics
from headway.observe.observer import Observer
from headway.serve.cache_store import AnswerStore
from headway.serve.config import ServeConfig
from headway.serve.connections import Doorkeeper, allow_open_files
from headway.serve.control import Control
from headway.serve.dataplane import DataPlane
from headway.serve.errors import UnavailableError
from headway.serve.extensions import Extensions
from headway.serve.loading import Loaded, Source, load_bundle, warm_up
from headway.serve.repository import Repository
from headway.serve.rest import Rest
from headway.serve.selection import Selection

if TYPE_CHECKING:
    from headway.serve.grpc_service import GrpcServer

_IDLE_S = 1.0  # an HTTP connection that was silent for less is not closed to make room
_LAST_ANSWERS_S = 2.0  # to write refusals at the end of a drain


class _Place(NamedTuple):
    """An address that is held for us, with the port that was found for it."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Server:
    """Serves bundles over the Open Inference Protocol.

    Args:
        models: bundles, their paths, or registry references such as `digits`, `digits:3` and `digits@production`.
        config: every other setting.
        on_ready: is called in the event loop once requests are answered.

    Attributes:
        url: where it answers; empty until it does.
        grpc_address: `host:port` where it answers gRPC; empty until it does, or where it is off.
        models: names of the models that were served as it began to answer; empty until then.
    """

    def __init__(
        self,
        models: Sequence[Source],
        config: ServeConfig | None = None,
        *,
        on_ready: Callable[["Server"], None] | None = None,
    ) -> None:
        self.config = config or ServeConfig()
        self.url = self.grpc_address = ""
        self.models: list[str] = []
        self._sources = list(models)
        self._on_ready = on_ready
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._repository: Repository | None = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. To be called in the main thread.

        Raises:
            BundleError: a bundle is wrong, and what else `load_bundle` raises; nothing was listening yet.
            ConfigError: the address cannot be had, or two bundles are the same version of one model.
        """
        self._serve(own_process=True)

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Serve in a thread for the block, which begins when the server is ready. Raises what `run` raises."""
        failure: list[BaseException] = []

        def serve() -> None:
            try:
                self._serve(own_process=False)
            except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
                failure.append(error)
            finally:
                self._started.set()

        thread = threading.Thread(target=serve, name="headway-server")
        thread.start()
        self._started.wait()
        try:
            if not failure:
                yield self
        finally:
            self.stop()
            thread.join()
        if failure:
            raise failure[0]

    def stop(self) -> None:
        """Ask the server to shut down; from any thread, at any time."""
        self._stopped.set()
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    def load(self, name: str, **selection: Any) -> None:
        """Load a model, or load it anew; from any thread but the server's own. Returns once the new versions answer.

        Args:
            name: of the model. What it was started from is read again: a path, or a name or alias in the registry;
                another name is looked up in the registry.
            selection: `version`, `alias`, `version_policy`, `variant`; see `Selection`.

        Raises:
            LoadError: it does not load; what was served before still is. And what else `Repository.load` raises.
            ConfigError: there is no such selection.
        """
        wanted = validate(Selection, selection, ConfigSource("load"))
        self._ask(lambda repository: repository.load(name, wanted))

    def unload(self, name: str) -> None:
        """Stop serving a model; from any thread but the server's own. Raises what `Repository.unload` raises."""
        self._ask(lambda repository: repository.unload(name))

    def _ask(self, change: Callable[[Repository], Coroutine[Any, Any, None]]) -> None:
        loop, repository = self._loop, self._repository
        if loop is None or repository is None or loop.is_closed():
            raise UnavailableError("the server is not running")
        try:
            asyncio.run_coroutine_threadsafe(change(repository), loop).result()
        except FuturesCancelledError:
            raise UnavailableError("the server shut down") from None

    def _serve(self, *, own_process: bool) -> None:
        if self.config.traces:
            traces.require()
        with (
            _reserve(self.config.host, self.config.http_port, "--http-port") as http,
            _grpc_place(self.config) as grpc,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(self._main(self._load(), http, grpc, own_process))

    def _load(self) -> list[tuple[Source, Loaded]]:
        config = self.config
        loaded: dict[tuple[str, str], tuple[Source, Loaded]] = {}
        try:
            for source in self._sources:
                one = load_bundle(
                    source,
                    variant=config.variant,
                    threads=config.threads,
                    choose_seconds=config.choose_seconds,
                    public_key=config.public_key,
                    trust_any=config.trust_any,
                    limits=config.processing_limits(),
                )
                name, version = one.bundle.manifest.name, one.version
                if (name, version) in loaded:
                    one.session.close()
                    raise ConfigError(f"{name}:{version} is given twice", remedy="Name each bundle once.")
                loaded[name, version] = source, one
                warm_up(one, (1, config.max_batch_rows))
                logger.info("model loaded", extra={"fields": {"model": name, "version": version}})
        except BaseException:
            for _, one in loaded.values():
                one.session.close()
            raise
        return list(loaded.values())

    async def _main(
        self, loaded: Sequence[tuple[Source, Loaded]], http: _Place, grpc: _Place | None, own_process: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop, self._stop = loop, asyncio.Event()
        if self._stopped.is_set():
            self._stop.set()
        if own_process:
            # Nothing that was made so far becomes garbage: searching it would stop every request for some 30 ms.
            gc.collect()
            gc.freeze()
            allow_open_files()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
        plane = self._plane()
        plane.observer.start()
        repository = Repository(plane, self.config)
        repository.start(loaded)
        extensions = Extensions(plane, repository, Control(self.config.model_control, http.address), self.config)
        calls = self._grpc(plane, extensions, grpc)
        rest = Rest(plane, extensions, self.config)
        granian = self._granian(rest, http)
        serving = loop.create_task(granian.serve())
        watching = [loop.create_task(keeper.watch()) for keeper in self._doorkeepers(rest, http, grpc)]
        try:
            await _listening(http, serving)
            self.url, self.models, self._repository = f"http://{http}", plane.names, repository
            if calls is not None:
                await calls.start()
                self.grpc_address = str(grpc)
            fields = {"url": self.url, "grpc": self.grpc_address, "models": plane.names}
            logger.info("listening", extra={"fields": fields})
            if self._on_ready:
                self._on_ready(self)
            self._started.set()
            stopping = loop.create_task(self._stop.wait())
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
        finally:
            for watch in watching:
                watch.cancel()
            await self._shut_down(plane, repository, granian, serving, calls)
            extensions.close()

    async def _shut_down(
        self,
        plane: DataPlane,
        repository: Repository,
        granian: Granian,
        serving: "asyncio.Task[None]",
        calls: "GrpcServer | None",
    ) -> None:
        """Accept nothing new, answer what was accepted, free the models."""
        loop = asyncio.get_running_loop()
        logger.info("shutting down", extra={"fields": {"drain_s": self.config.drain_s}})
        plane.draining = True
        granian.stop()  # type: ignore[no-untyped-call]  # each connection closes once its request is answered
        ending = {serving, loop.create_task(repository.close())}
        if calls is not None:
            ending.add(loop.create_task(calls.stop(self.config.drain_s + _LAST_ANSWERS_S)))
        await asyncio.wait(ending, timeout=self.config.drain_s)
        await plane.close()  # what is still there is refused
        await asyncio.wait(ending, timeout=_LAST_ANSWERS_S)
        serving.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await plane.observer.close()
        logger.info("stopped", extra={"fields": {"requests": plane.metrics.outcomes()}})

    def _plane(self) -> DataPlane:
        config, metrics = self.config, Metrics()
        tracer = traces.Tracer() if config.traces else None
        return DataPlane(
            metrics,
            AnswerStore(config.cache_mb * 1_000_000) if config.cache_mb else None,
            Observer(metrics, log_requests=config.log_requests, tracer=tracer),
        )

    def _doorkeepers(self, rest: Rest, http: _Place, grpc: _Place | None) -> list[Doorkeeper]:
        most, timeout_s = self.config.max_connections, self.config.request_timeout_s
        keepers = [Doorkeeper(http.port, most, grace_s=_IDLE_S, stall_s=timeout_s, busy=rest.clients)]
        if grpc is not None:  # whose calls under way are not known; none takes longer than this
            keepers.append(Doorkeeper(grpc.port, most, grace_s=2 * timeout_s, stall_s=2 * timeout_s))
        return keepers

    def _grpc(self, plane: DataPlane, extensions: Extensions, place: _Place | None) -> "GrpcServer | None":
        if place is None:
            return None
        from headway.serve.grpc_service import GrpcServer  # grpcio costs a tenth of a second and 20 MB

        return GrpcServer(plane, extensions, self.config, str(place))

    def _granian(self, rest: Rest, place: _Place) -> Granian:
        return Granian(
            rest,
            address=place.address,
            port=place.port,
            http=HTTPModes.http1,
            websockets=False,
            log_enabled=False,
            backlog=1024,
            backpressure=self.config.max_connections,
            http1_settings=HTTP1Settings(header_read_timeout=int(self.config.header_timeout_s * 1000)),
        )


@contextmanager
def _grpc_place(config: ServeConfig) -> Iterator[_Place | None]:
    if config.grpc_port is None:
        yield None
        return
    with _reserve(config.host, config.grpc_port, "--grpc-port") as place:
        yield place


@contextmanager
def _reserve(host: str, port: int, option: str) -> Iterator[_Place]:
    """Hold an address for granian, which binds it a second time with SO_REUSEPORT and does not say which port it got.

    The first bind is without SO_REUSEPORT and so fails where anybody listens already; a second server would otherwise
    quietly take half of the first one's connections. A socket that is bound but does not listen receives none.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"no such address: {host!r}", where="host") from error
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(target)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host} port {port}: {error.strerror}",
                remedy=f"Choose another {option}; 0 takes any.",
            ) from error
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address, bound = held.getsockname()[:2]
        yield _Place(str(address), int(bound))


async def _listening(place: _Place, serving: "asyncio.Task[None]") -> None:
    """Wait until a connection is accepted; granian has no event for it. Raises what `serving` raises."""
    while True:
        try:
            _, writer = await asyncio.open_connection(place.address, place.port)
        except OSError:
            if serving.done():
                await serving
                raise
            await asyncio.sleep(0.005)
        else:
            writer.close()
            await writer.wait_closed()
            return
