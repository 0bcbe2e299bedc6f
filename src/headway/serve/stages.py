"""A bundle's processing on threads of its own, beside the runs of its model: while one batch runs, the pictures and
texts of the next are prepared. Pillow and the tokenizers library let other threads work while they do.

Every accepted request has a future, and whatever happens to it (a bad picture, a deadline, a caller that leaves, a
shutdown) settles that future once. The threads look at it between rows, and stop where nobody waits any more.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

from headway.core.errors import HeadwayError, RequestError
from headway.core.tensors import Array
from headway.observe.metrics import ModelMetrics
from headway.processing.pipeline import Pipeline
from headway.serve.errors import DeadlineError, FullError, InferenceError, TooLargeError, UnavailableError

Tensors = dict[str, Array]

# Elements of outputs. Softmax takes some 15 us over so many, top-k 150; asking a thread takes 50 and more.
_INLINE = 4096


class Stages:
    """Made and used in one event loop.

    Args:
        pipeline: a bundle's processing.
        threads: that work on it.
        queue_rows: that may be here and in the model's queue together.
        metrics: told of every request.
        name: of the model; stands in thread names.

    Attributes:
        rows: that are being prepared, or wait for it.
    """

    def __init__(self, pipeline: Pipeline, *, threads: int, queue_rows: int, metrics: ModelMetrics, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipeline = pipeline
        self._queue_rows = queue_rows
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"headway-stage-{name}")
        self._preparing: set[asyncio.Future[Tensors]] = set()
        self._closing = False
        self._empty = asyncio.Event()
        self._empty.set()
        self.rows = 0

    async def before(self, inputs: Mapping[str, Array], timeout_s: float, queued_rows: int) -> Tensors:
        """The model's tensors.

        Args:
            inputs: as a client sent them.
            timeout_s: seconds that it may take.
            queued_rows: that wait in the model's queue.

        Raises:
            RequestError: something cannot be processed; it says which row of which input, and why.
            FullError: not accepted; there are too many waiting.
            UnavailableError: not accepted, or not answered in time, for the model is being unloaded.
            DeadlineError: it took longer.
            InferenceError: a stage failed.
        """
        if not self._pipeline.takes(inputs):
            return self._pipeline.before(inputs)  # the model's own
        if self._closing:
            raise UnavailableError("the model is being unloaded")
        rows = max(value.shape[0] if value.ndim else 1 for value in inputs.values())
        self._admit(rows, queued_rows)
        began = perf_counter()
        answer: asyncio.Future[Tensors] = self._loop.create_future()
        self.rows += rows
        self._preparing.add(answer)
        self._empty.clear()
        try:
            tensors = await self._on_thread(partial(self._pipeline.before, inputs, answer.done), answer, timeout_s)
        finally:
            self.rows -= rows
            self._preparing.discard(answer)
            if not self._preparing:
                self._empty.set()
        self._metrics.pre.add(perf_counter() - began)
        return tensors

    async def after(self, outputs: Mapping[str, Array], names: Collection[str], timeout_s: float) -> Tensors:
        """The outputs called so, made from the model's. Raises `InferenceError` and `DeadlineError`."""
        if not self._pipeline.gives(names):
            return {name: outputs[name] for name in names}
        began = perf_counter()
        task = partial(self._pipeline.after, outputs, names)
        if self._closing or sum(value.size for value in outputs.values()) <= _INLINE:
            found = _outcome(task)
            if isinstance(found, HeadwayError):
                raise found
        else:
            found = await self._on_thread(task, self._loop.create_future(), timeout_s)
        self._metrics.post.add(perf_counter() - began)
        return found

    async def drain(self, seconds: float) -> float:
        """Accept nothing more, and finish what was accepted within so many seconds. Returns the seconds left."""
        self._closing = True
        began = self._loop.time()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            for answer in self._preparing:
                _settle(answer, UnavailableError("the server shut down before there was an answer"))
        return max(0.0, seconds - (self._loop.time() - began))

    async def close(self) -> None:
        """End the threads, each after the row it is at."""
        await self._loop.run_in_executor(None, partial(self._pool.shutdown, cancel_futures=True))

    def _admit(self, rows: int, queued_rows: int) -> None:
        if rows > self._queue_rows:
            remedy = "Send fewer a time."
            raise TooLargeError(f"{rows} rows in one request; at most {self._queue_rows} are taken", remedy=remedy)
        waiting = self.rows + queued_rows
        if waiting + rows > self._queue_rows:
            raise FullError(f"{waiting} rows are waiting already", remedy="Try again in a moment.")

    async def _on_thread(
        self, task: Callable[[], Tensors], answer: "asyncio.Future[Tensors]", timeout_s: float
    ) -> Tensors:
        job = self._pool.submit(self._work, task, answer)
        late = DeadlineError("the deadline passed before there was an answer", remedy="Allow more time.")
        alarm = self._loop.call_later(timeout_s, _settle, answer, late)
        try:
            return await answer
        finally:
            alarm.cancel()
            job.cancel()  # where it has not begun

    def _work(self, task: Callable[[], Tensors], answer: "asyncio.Future[Tensors]") -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, answer, _outcome(task))
        except RuntimeError:  # the loop was closed under work that outlived the shutdown
            return


def _outcome(task: Callable[[], Tensors]) -> Tensors | HeadwayError:
    try:
        return task()
    except RequestError as error:
        return error
    except BaseException as error:  # noqa: BLE001  (a panic in Rust is no Exception; the thread must live on)
        failure = InferenceError(f"a stage failed: {type(error).__name__}")
        failure.__cause__ = error
        return failure


def _settle(answer: "asyncio.Future[Tensors]", outcome: Tensors | HeadwayError) -> None:
    if answer.done():
        return
    if isinstance(outcome, HeadwayError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
