"""CPU time of the stages of a request, inside the server that is measured.

Each stage is a function of Headway's; while it runs its thread's CPU clock counts for it, and not for the stage that
called it. A coroutine counts for each of its steps, and not while it waits. The totals lie in a shared file, in
seconds, so that another process can read them at any time. Being measured costs a stage about a microsecond.
"""

import importlib
import mmap
import threading
from collections.abc import Callable, Generator, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from time import thread_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Stage(NamedTuple):
    """What counts for one line of the profile.

    Attributes:
        name: as the profile calls it.
        thread: whose it is, "loop" or "run"; short runs are carried out in the loop too.
        functions: `module:attribute` of each.
    """

    name: str
    thread: str
    functions: tuple[str, ...]


RUN = Stage("the run: ONNX Runtime", "run", ("headway.runtimes.onnx_runtime:OnnxSession.run",))
STAGES = (
    Stage("route, call the rest, answer", "loop", ("headway.serve.rest:Rest.__rsgi__",)),
    Stage("read the body", "loop", ("headway.serve.rest:Rest._body",)),
    Stage("decode", "loop", ("headway.serve.rest:decode",)),
    Stage("the model's pipeline", "loop", ("headway.serve.served_model:ServedModel.infer",)),
    Stage("check against the signature", "loop", ("headway.serve.signature:Signature.check",)),
    Stage("queue, deadline, future", "loop", ("headway.serve.runner:Runner.infer",)),
    Stage(
        "form batches, settle answers",
        "loop",
        ("headway.serve.runner:Runner._look", "headway.serve.runner:Runner._finished"),
    ),
    Stage(
        "count",
        "loop",
        ("headway.observe.metrics:ModelMetrics.answered", "headway.observe.metrics:ModelMetrics.batch_ran"),
    ),
    Stage("encode", "loop", ("headway.serve.rest:encode",)),
    Stage("take a batch, hand it back", "run", ("headway.serve.runner:Runner._work",)),
    Stage("join the inputs, cut the outputs", "run", ("headway.serve.runner:Runner._run",)),
    RUN,
)


class _Here(threading.local):
    stage = -1  # of this thread: none
    since = 0.0

    def __init__(self, stages: int) -> None:
        self.first = 0 if threading.current_thread() is threading.main_thread() else stages  # among the totals


class _Clock:
    def __init__(self, path: Path, stages: int) -> None:
        path.write_bytes(bytes(2 * 8 * stages))
        with path.open("r+b") as file:
            self._totals = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._here = _Here(stages)

    def enter(self, stage: int) -> int:
        """From now on it is this stage; returns the one before, which `leave` wants."""
        here, now = self._here, thread_time()
        before = here.stage
        if before >= 0:
            self._totals[here.first + before] += now - here.since
        here.stage, here.since = stage, now
        return before

    def leave(self, before: int) -> None:
        """Back to the stage before."""
        here, now = self._here, thread_time()
        self._totals[here.first + here.stage] += now - here.since
        here.stage, here.since = before, now


class _Steps:
    """A coroutine whose steps count for a stage."""

    def __init__(self, clock: _Clock, stage: int, coroutine: Any) -> None:
        self._clock, self._stage, self._coroutine = clock, stage, coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        step, given = steps.send, None
        while True:
            before = self._clock.enter(self._stage)
            try:
                waits_for = step(given)
            except StopIteration as ended:
                return ended.value
            finally:
                self._clock.leave(before)
            try:
                given = yield waits_for
                step = steps.send
            except BaseException as error:  # noqa: BLE001  (cancellation, which is the coroutine's to handle)
                step, given = steps.throw, error


def install(path: Path, stages: Sequence[Stage]) -> None:
    """Measure these stages from now on, into a file that `read` reads. To be called before the server is made.

    Raises:
        AttributeError, ModuleNotFoundError: a stage's function is gone; `STAGES` is out of date.
    """
    clock = _Clock(path, len(stages))
    for number, stage in enumerate(stages):
        for function in stage.functions:
            module, _, attribute = function.partition(":")
            *owners, name = attribute.split(".")
            owner: Any = importlib.import_module(module)
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, name, _measured(clock, number, getattr(owner, name)))


def read(path: Path) -> NDArray[np.float64]:
    """CPU seconds so far, [2, stages]: in the main thread, which has the event loop, and in all others."""
    return np.fromfile(path, np.float64).reshape(2, -1)


def _measured(clock: _Clock, stage: int, function: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(function):

        @wraps(function)
        async def stepped(*args: Any, **named: Any) -> Any:
            return await _Steps(clock, stage, function(*args, **named))

        return stepped

    @wraps(function)
    def timed(*args: Any, **named: Any) -> Any:
        before = clock.enter(stage)
        try:
            return function(*args, **named)
        finally:
            clock.leave(before)

    return timed
