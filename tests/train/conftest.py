"""What the training tests share: a small task on real digits, and a progress that remembers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

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
