"""Batches, made by the loop itself when it asks for one, or ahead of it by worker processes.

What a batch holds follows from the plan and from its place in it, random numbers included: neither the number of
workers nor a restart changes a bit of it. torch's `DataLoader` keeps the order and carries tensors through shared
memory; what goes wrong beside the loop is told here as if it had gone wrong in it.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from headway.core import machine
from headway.core.errors import HeadwayError, TaskError, WorkerError
from headway.core.tensors import Array
from headway.tasks import Task
from headway.tasks.factory import user_error
from headway.tasks.parts import Indices, Inputs, Part
from headway.tasks.seeding import reseed
from headway.train.config import TrainConfig
from headway.train.objective import users
from headway.train.plan import Plan
from headway.train.world import World

Tensors = dict[str, torch.Tensor]
_MOST = 8  # workers that are taken without being asked for
_HELD = (signal.SIGINT, signal.SIGTERM)
_MODULES = ["headway.train.loader"]  # imported once, by the process that workers are forked off
DRAWS_DATA, DRAWS_MODEL = 0, 1  # last word of what a batch's random numbers are drawn from


@dataclass(frozen=True)
class Order:
    """One batch of a step that is to be made: this process's rows of it, and the weight of their mean."""

    step: int
    number: int
    rows: Indices
    weight: float


@dataclass(frozen=True)
class Batch:
    """What was ordered, with augmented inputs by name and targets, each [len(order.rows), ...]."""

    order: Order
    inputs: Tensors
    targets: torch.Tensor


class Loader:
    """The batches of a run, from one of its steps on.

    Args:
        task: its training part and augmentation.
        plan: which rows each step sees.
        world: of each batch, this process's share is made.
        device: where batches go.
        step: the first one.

    Attributes:
        workers: processes that make batches; with 0, `take` makes them.
        waited: seconds that `take` has taken so far.

    Raises:
        TaskError: the training part or the augmentation cannot be sent to workers.
    """

    def __init__(self, task: Task, plan: Plan, world: World, device: torch.device, step: int) -> None:
        part, config = task.parts.train, plan.config
        self.workers, self.waited = workers(part, config, device), 0.0
        self._processes: set[multiprocessing.process.BaseProcess] = set()
        self._orders = _Orders(plan, world, step)
        pin = config.loader.pin and device.type != "cpu"
        source = _Source(part, task.augment, config.seed, world.place, pin=pin)
        # Without workers a DataLoader would only add its own time, some 50 microseconds a batch.
        self._found = self._start(source, config, pin=pin) if self.workers else ((o, source[o]) for o in self._orders)
        self._peeked: Batch | None = None

    def peek(self) -> Batch:
        """The first batch, which `take` will give again; see there what is raised."""
        self._peeked = self._peeked or self._next()
        return self._peeked

    def take(self, step: int) -> Batch:
        """The next batch of `step`; those that are left of earlier steps are passed over.

        Raises:
            TaskError: the user's code raises.
            WorkerError: a worker was lost.
        """
        began = time.monotonic()
        batch = self.peek()
        while batch.order.step < step:
            batch = self._next()
        self._peeked = None
        self.waited += time.monotonic() - began
        return batch

    def close(self) -> None:
        """End the workers, whatever they do."""
        if self._processes:
            self._batches._shutdown_workers()
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()

    def _start(self, source: "_Source", config: TrainConfig, *, pin: bool) -> Iterator[tuple[Order, Any]]:
        """Orders, and what workers make of them.

        Workers are started from a thread that holds signals back, and inherit that: Ctrl-C reaches the whole group of
        processes, and the loop has a step to finish with their help. In a thread, torch also leaves SIGCHLD alone,
        which would raise in the middle of a step.
        """
        context: Any = multiprocessing.get_context(config.loader.start)
        if config.loader.start == "forkserver":
            context.set_forkserver_preload(_MODULES)
        before = set(multiprocessing.active_children())
        with warnings.catch_warnings(), ThreadPoolExecutor(1, initializer=_hold) as thread:
            warnings.simplefilter("ignore")  # more workers than cores; a fork beside threads; what is raised anyway
            batches: DataLoader[Any] = DataLoader(
                source,
                sampler=self._orders,
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                pin_memory=pin,
                generator=torch.Generator(),  # or it would draw from the one that the model draws from
                worker_init_fn=_begin,
                prefetch_factor=config.loader.ahead,
                multiprocessing_context=context,
            )
            try:
                self._batches: Any = thread.submit(iter, batches).result()
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                raise TaskError(
                    f"the training part or augmentation cannot be sent to worker processes: {error}",
                    where="train.loader",
                    remedy="Define its functions and classes at the top of a module, or set train.loader.start to "
                    "fork, or train.loader.workers to 0.",
                ) from error
            finally:
                self._processes = set(multiprocessing.active_children()) - before
        return zip(self._orders, self._batches, strict=False)

    def _next(self) -> Batch:
        try:
            order, found = next(self._found)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise self._lost() from error
        if isinstance(found, HeadwayError):
            raise found
        return Batch(order, *found)

    def _lost(self) -> WorkerError:
        codes = [process.exitcode for process in self._processes if process.exitcode is not None]
        by = next((signal.Signals(-code).name for code in codes if code < 0), None)
        ended = f"was ended by {by}" if by else f"ended with exit code {max(codes, default=1)}"
        return WorkerError(
            f"a process that prepares batches {ended}",
            where="train.loader",
            remedy="If memory ran out: fewer train.loader.workers, or a smaller train.loader.ahead. If shared memory "
            "did: a larger /dev/shm (docker run --shm-size). The same command goes on from the last checkpoint.",
        )


def workers(part: Part, config: TrainConfig, device: torch.device) -> int:
    """How many worker processes each training process has."""
    asked = config.loader.workers
    if asked != "auto":
        return asked
    if not getattr(part, "costly", False):
        return 0
    cores = machine.usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    busy = (config.threads or cores) if device.type == "cpu" else 1
    return min(_MOST, max(1, cores - busy))


class _Orders(Sampler[Order]):
    """Every batch from `step` on, in the order of the plan."""

    def __init__(self, plan: Plan, world: World, step: int) -> None:
        self._plan, self._world, self._step = plan, world, step

    def __iter__(self) -> Iterator[Order]:
        for step in range(self._step, self._plan.steps):
            for number, batch in enumerate(self._plan.batches(step)):
                yield Order(step, number, *self._world.share(batch))


class _Source(Dataset[Any]):
    """Makes what is ordered. An error is returned, not raised: torch would put its traceback's text in its place."""

    def __init__(self, part: Part, augment: Callable[..., Any] | None, seed: int, rank: int, *, pin: bool) -> None:
        self._part, self._augment, self._seed, self._rank, self._pin = part, augment, seed, rank, pin

    def __getitem__(self, order: Order) -> tuple[Tensors, torch.Tensor] | HeadwayError:
        reseed(self._seed, self._rank, order.step, order.number, DRAWS_DATA)
        try:
            return self._make(order.rows)
        except HeadwayError as error:
            return error

    def _make(self, rows: Indices) -> tuple[Tensors, torch.Tensor]:
        inputs, targets = read(self._part, rows)
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        if self._augment is not None:
            with torch.no_grad():
                tensors = _augmented(self._augment, tensors)
        wanted = torch.from_numpy(targets)
        if get_worker_info() is not None:
            _share([*tensors.values(), wanted])
        elif self._pin:  # of workers' batches, a thread of the DataLoader's does it
            tensors, wanted = {name: value.pin_memory() for name, value in tensors.items()}, wanted.pin_memory()
        return tensors, wanted


def read(part: Part, rows: Indices) -> tuple[Inputs, Array]:
    """Rows of the training part.

    Raises:
        TaskError: the part raises; it names the rows.
    """
    try:
        return part.batch(rows)
    except HeadwayError:
        raise
    except Exception as error:
        named = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        raise user_error(f"reading training rows {named}", error) from error


def _augmented(augment: Callable[..., Any], inputs: Tensors) -> Tensors:
    """The inputs as the user's `augment` changes them."""
    found = users("augment", augment, inputs)
    code = getattr(augment, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else None
    if not isinstance(found, dict):
        raise TaskError(f"augment must return a dict of tensors; got {type(found).__name__}", where=where)
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise TaskError(f"augment must return tensors; {name!r} is {type(value).__name__}", where=where)
    return found


def _share(tensors: list[torch.Tensor]) -> None:
    """Move tensors to shared memory here, where what is wrong can be told: the queue's own thread would only hang."""
    try:
        for tensor in tensors:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise WorkerError(
            f"shared memory for a batch could not be had: {error}",
            where="train.loader",
            remedy="Set a smaller train.loader.workers or ahead, or give more: docker run --shm-size, ulimit -n.",
        ) from error


def _hold() -> None:
    """Hold back, from this thread and what it starts, what would end it."""
    resource_tracker.ensure_running()  # a thread that starts it lets these signals through again
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def _begin(worker: int) -> None:
    """In each worker, before its first batch: the training process ends it, also by being killed."""
    _hold()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """torch looks for the process that forked this one; a fork server lives as long as what it forked."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _as_it_is(found: Any) -> Any:
    """In place of torch's own conversion to tensors."""
    return found
