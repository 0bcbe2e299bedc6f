"""Starts the processes that train together, through torchrun's own agent.

torchrun restarts whatever fails, also what fails in the same way each time. Here only a lost process is a reason to
start again; an error in the recipe, the task or the data ends the run, with the message of the process that found it.
"""

import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from headway.core.errors import HeadwayError, UsageError, WorkerError
from headway.core.progress import Progress

_INTERRUPTED = 130


def launched() -> bool:
    """Whether torchrun, or something that speaks as it does, started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def launch(arguments: Sequence[str], processes: int, restarts: int, progress: Progress) -> None:
    """Run `python -m headway ARGUMENTS` in so many processes on this machine, until all of them have ended well.

    Args:
        arguments: of the command line; each process finds its rank in its environment, as torchrun leaves it there.
        restarts: how often all are started again after one was lost.
        progress: told of each restart.

    Raises:
        UsageError: a process found the recipe, the task or the data wrong.
        WorkerError: a process was lost more often than that.
        KeyboardInterrupt: the run was asked to stop, and has saved what it did.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.ERROR)  # it warns of each signal that it passes on
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex, local_addr="localhost", max_restarts=0,
    )  # fmt: skip
    for left in reversed(range(restarts + 1)):
        try:
            elastic_launch(config, sys.executable)("-m", "headway", *arguments)
            return
        except SignalException as error:
            raise KeyboardInterrupt from error
        except ChildFailedError as error:
            cause = _cause(error)
            if not isinstance(cause, WorkerError) or not left:
                raise cause from error
            progress.say(f"{cause}; started again, {left} more time{'s' * (left > 1)} at most")


def reported(work: Callable[[], Any]) -> Any:
    """Run `work` in a process that `launch` or torchrun started, and leave what it raises to whoever started it."""
    from torch.distributed.elastic.multiprocessing.errors import record

    try:
        return record(work)()
    except HeadwayError as error:
        _leave(error)


def _leave(error: HeadwayError) -> NoReturn:
    """End without a word. Whoever lost another process waits to be ended: it is not the cause, and must not seem so."""
    import threading

    if isinstance(error, WorkerError):
        threading.Event().wait(5)
    sys.exit(error.exit_code)


def _cause(error: Any) -> BaseException:
    """What the first process to fail has left, or how it ended. Who only lost another one tells nothing."""
    failures = sorted(error.failures.items(), key=lambda found: (_said(found[1]).startswith("WorkerError"), found[0]))
    rank, first = failures[0]
    kind, _, text = _said(first).partition(": ")
    if first.exitcode == _INTERRUPTED:
        return KeyboardInterrupt()
    if first.exitcode == UsageError.exit_code and text:
        return UsageError(text)
    if first.exitcode < 0:
        return WorkerError(f"process {rank} was ended by {first.signal_name()}")
    if kind == "WorkerError":
        return WorkerError(text)
    return WorkerError(f"process {rank} failed with exit code {first.exitcode}: {kind}: {text}")


def _said(failure: Any) -> str:
    return str(failure.message["message"] if isinstance(failure.message, dict) else failure.message)
