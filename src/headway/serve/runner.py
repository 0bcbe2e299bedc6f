"""Gives a session's batcher its threads: requests in from the event loop, runs in worker threads, answers back.

The loop and a worker speak twice a batch, not a request: one put into the worker's inbox, one `call_soon_threadsafe`
back. A run that is known to be shorter than these two are worth is carried out in the loop. No lock is held across a
run. Every accepted request has a future, and whatever happens to it (a run that raises, a deadline, a caller that
leaves, a shutdown) settles that future once.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from headway.core.errors import HeadwayError
from headway.core.tensors import DYNAMIC, Array
from headway.observe.requests import CURRENT, RequestRecord, batch_ran
from headway.runtimes.runtime import Session
from headway.serve.batcher import Batch, Batcher, BatchLimits
from headway.serve.durations import Durations
from headway.serve.errors import DeadlineError, InferenceError, UnavailableError
from headway.serve.lane import Job
from headway.serve.signature import Checked

if TYPE_CHECKING:
    from headway.serve.padding import Padding

_TICK = 0.001  # the loop's timers count in milliseconds: a shorter delay would make the loop spin until it has passed

Arrays = Mapping[str, Array]
Outcome = dict[str, Array] | HeadwayError


class Watcher(Protocol):
    """Is told what happens, for metrics."""

    def batch_ran(self, *, rows: int, waited: Sequence[float], seconds: float) -> None:
        """A run over `rows` rows took `seconds`; its requests had waited for `waited` seconds each."""


@dataclass(slots=True, eq=False)
class _Call:
    inputs: Arrays
    answer: "asyncio.Future[dict[str, Array]]"
    record: RequestRecord | None


_Jobs = list[Job[_Call]]


class Runner:
    """Runs one session. Made and used in one event loop.

    Args:
        session: is closed by `close`.
        whole_rows: whether every output has as many rows as the inputs, which is then checked.
        watcher: is told of every run.
        name: of the model; stands in thread names.
        padding: how requests of different lengths share a run, where they may.
        durations: what is known already of how long runs take.
    """

    def __init__(
        self,
        session: Session,
        limits: BatchLimits,
        *,
        whole_rows: bool,
        watcher: Watcher,
        name: str,
        padding: "Padding | None" = None,
        durations: Durations | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[_Call] = Batcher(limits, durations)
        self._session = session
        self._outputs = [spec.name for spec in session.outputs]
        self._whole_rows = whole_rows
        self._watcher = watcher
        self._padding = padding
        # Where lengths vary, how long a run will take is not known from its rows.
        self._fixed = all(DYNAMIC not in spec.shape[1:] for spec in session.inputs)
        self._inbox: SimpleQueue[Batch[_Call] | None] = SimpleQueue()
        self._running: set[Job[_Call]] = set()
        self._looking = False
        self._alarm: asyncio.TimerHandle | None = None
        self._closing = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._threads = [
            threading.Thread(target=self._work, name=f"headway-run-{name}-{number}", daemon=True)
            for number in range(limits.parallel_runs)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._batcher.queued_rows

    async def infer(self, checked: Checked, timeout_s: float, priority: int = 0) -> dict[str, Array]:
        """Queue a request and wait for its outputs.

        Args:
            checked: the inputs.
            timeout_s: seconds to answer in.
            priority: from 1, the highest; 0 is the default.

        Raises:
            FullError: not accepted; there are too many waiting.
            UnavailableError: not accepted, or not answered in time, for the session is being closed.
            DeadlineError: there was no answer within `timeout_s` seconds.
            RequestError: the model refuses the values, or there is no such priority.
            InferenceError: the model failed.
        """
        if self._closing:
            raise UnavailableError("the model is being unloaded")
        loop = self._loop
        if (record := CURRENT.get()) is not None:
            record.rows = checked.rows
        now = perf_counter()  # and not the loop's clock, which moves once a turn
        call = _Call(checked.inputs, loop.create_future(), record)
        job = Job(call, checked.rows, checked.lane, now, now + timeout_s, checked.lengths, priority)
        self._batcher.offer(job)
        self._empty.clear()
        self._look_soon()
        alarm = loop.call_later(timeout_s, self._expire, job)
        try:
            return await call.answer
        finally:
            alarm.cancel()
            if call.answer.cancelled():  # the caller has gone
                self._batcher.drop(job)
                self._note_emptiness()

    async def close(self, drain_s: float) -> None:
        """Accept nothing more, finish what was accepted within `drain_s` seconds, refuse the rest, free the session."""
        self._closing = True
        try:
            await asyncio.wait_for(self._empty.wait(), drain_s)
        except TimeoutError:
            for job in (*self._batcher.clear(), *self._running):
                _settle(job, UnavailableError("the server shut down before there was an answer"))
        for _ in self._threads:
            self._inbox.put(None)
        await self._loop.run_in_executor(None, self._join, drain_s)
        if not any(thread.is_alive() for thread in self._threads):
            self._session.close()

    def _join(self, seconds: float) -> None:
        for thread in self._threads:
            thread.join(max(seconds, 1.0))

    # The event loop's side

    def _look_soon(self) -> None:
        """Look once this turn of the loop is over: requests that came in together then share the first batch."""
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while (batch := self._batcher.take(perf_counter())) is not None:
            for job in batch.late:
                self._expire(job)
            if not batch.jobs:
                continue
            self._running.update(batch.jobs)
            if self._fixed and self._batcher.is_brief(batch):
                outcomes, began, seconds = self._timed(batch)
                self._release(batch)
                self._settle(batch, outcomes, began, seconds)
            else:
                self._inbox.put(batch)
        if (when := self._batcher.next_look()) is not None:
            self._alarm = self._loop.call_later(max(when - perf_counter(), _TICK), self._look)
        self._note_emptiness()

    def _expire(self, job: Job[_Call]) -> None:
        self._batcher.drop(job)
        _settle(job, DeadlineError("the deadline passed before there was an answer", remedy="Allow more time."))
        self._note_emptiness()

    def _finished(self, batch: Batch[_Call], outcomes: Sequence[Outcome], began: float, seconds: float) -> None:
        self._release(batch)
        self._look()  # the next batch starts before the answers to this one are written
        self._settle(batch, outcomes, began, seconds)

    def _release(self, batch: Batch[_Call]) -> None:
        self._batcher.release(batch, perf_counter())
        self._running.difference_update(batch.jobs)

    def _settle(self, batch: Batch[_Call], outcomes: Sequence[Outcome], began: float, seconds: float) -> None:
        jobs = batch.jobs
        for job, outcome in zip(jobs, outcomes, strict=True):
            _settle(job, outcome)
        waited = [began - job.arrived for job in jobs]
        rows = sum(job.rows for job in jobs)
        self._watcher.batch_ran(rows=rows, waited=waited, seconds=seconds)
        batch_ran([job.payload.record for job in jobs], waited, rows=rows, began=began, seconds=seconds)

    def _note_emptiness(self) -> None:
        if not self._batcher.queued_rows and not self._batcher.running:
            self._empty.set()

    # The workers' side

    def _work(self) -> None:
        while (batch := self._inbox.get()) is not None:
            outcomes, began, seconds = self._timed(batch)
            try:
                self._loop.call_soon_threadsafe(self._finished, batch, outcomes, began, seconds)
            except RuntimeError:  # the loop was closed under a run that outlived the shutdown
                return
            del batch, outcomes  # or the arrays would live until the next batch

    def _timed(self, batch: Batch[_Call]) -> tuple[Sequence[Outcome], float, float]:
        """The outcomes; when the run began, and how many seconds it took."""
        began = perf_counter()
        outcomes = self._run(batch.jobs)
        return outcomes, began, perf_counter() - began

    def _run(self, jobs: _Jobs) -> Sequence[Outcome]:
        """One outcome a job. Where a shared run fails, each runs alone, so that only the guilty one fails."""
        if len(jobs) > 1:
            try:
                return self._run_together(jobs)
            except Exception:  # noqa: BLE001, S110  (whatever it was, it comes again with the job that causes it)
                pass
        return [self._run_alone(job) for job in jobs]

    def _run_together(self, jobs: _Jobs) -> Sequence[Outcome]:
        padding = self._padding
        inputs = [job.payload.inputs for job in jobs]
        if padding is None:
            joined = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        else:
            joined = padding.join(inputs, [job.lengths for job in jobs])
        outputs = self._checked(self._session.run(joined), sum(job.rows for job in jobs))
        outcomes: list[dict[str, Array]] = []
        start = 0
        for job in jobs:
            stop = start + job.rows
            outcomes.append({name: value[start:stop] for name, value in outputs.items()})
            start = stop
        if padding is not None:
            return padding.cut(outcomes, [job.lengths for job in jobs])
        return outcomes

    def _run_alone(self, job: Job[_Call]) -> Outcome:
        if job.payload.answer.done():  # its caller left, or its deadline passed, while its batch mates ran
            return UnavailableError("nobody waits for this answer")
        try:
            inputs = {name: _aligned(value) for name, value in job.payload.inputs.items()}
            return self._checked(self._session.run(inputs), job.rows)
        except HeadwayError as error:
            return error
        except Exception as error:  # noqa: BLE001  (a runtime may raise anything; the thread must live on)
            failure = InferenceError(f"the model failed: {type(error).__name__}")
            failure.__cause__ = error
            return failure

    def _checked(self, outputs: Arrays, rows: int) -> dict[str, Array]:
        """The outputs, if there are as many, and of as many rows, as were promised."""
        missing = [name for name in self._outputs if name not in outputs]
        if missing:
            raise InferenceError(f"the model returned no output {missing[0]!r}")
        if self._whole_rows:
            for name in self._outputs:
                shape = outputs[name].shape
                if not shape or shape[0] != rows:
                    raise InferenceError(f"output {name!r} has shape {shape} for {rows} rows of input")
        return {name: outputs[name] for name in self._outputs}


def _aligned(value: Array) -> Array:
    """A tensor may start at any byte of a request's body; kernels want it on an address of its own size."""
    return value if value.flags.aligned and value.flags.c_contiguous else value.copy()


def _settle(job: Job[_Call], outcome: Outcome) -> None:
    answer = job.payload.answer
    if answer.done():
        return
    if isinstance(outcome, HeadwayError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
