"""What the training tests share: a small task on real digits, and a progress that remembers."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from headway.tasks import Task
from headway.tasks.images import digits


@pytest.fixture(scope="session", autouse=True)
def _libraries_have_settled() -> None:
    """scikit-learn and torch's optimizers set environment variables when they are first used; that is not a leak."""
    digits()
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])


@pytest.fixture
def task() -> Task:
    """Digits with a network of 5,000 parameters: conv, batch norm, and augmentation that draws random numbers."""
    return digits(width=4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Told:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.titles: list[tuple[str, float]] = []
        self.moved = 0.0
        self.notes: list[str] = []

    @contextmanager
    def work(self, title: str, total: float) -> Iterator["Told"]:
        self.titles.append((title, total))
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.moved += amount
        self.notes.append(note)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def told() -> Told:
    return Told()


Together = Callable[..., list[Any]]


def _work(
    work: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], answer: Connection
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        answer.send((work(*arguments), None))
    except Exception:
        answer.send((None, traceback.format_exc()))
        raise


@pytest.fixture(scope="module")
def together() -> Together:
    """`together(processes, work, *arguments)` runs `work` in so many processes, as torchrun would, and gives each one's
    answer, by rank. They are forked off a process that has imported torch, which is quicker by seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch._dynamo",
            "torch.distributed.checkpoint",
            "torch.distributed.fsdp",
            "headway.train.loop",
            "sklearn.datasets",
        ]
    )
    context.Process(target=os.getpid).start()  # so that the server is there before a test counts its children

    def run(processes: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        # As torchrun's agent does: a port that was free a moment ago may be another test's by now.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(processes)}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        started = []
        for rank in range(processes):
            mine, theirs = context.Pipe(duplex=False)
            environment = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=_work, args=(work, arguments, environment, theirs))
            process.start()
            theirs.close()
            started.append((process, mine))
        found = [_answer(answer) for _, answer in started]
        for process, answer in started:
            process.join()
            answer.close()
        failed = [error for _, error in found if error]
        assert not failed, "\n".join(failed)
        return [value for value, _ in found]

    return run


def _answer(answer: Connection) -> tuple[Any, str | None]:
    try:
        found: tuple[Any, str | None] = answer.recv()
    except EOFError:
        return None, "ended without an answer"
    return found
