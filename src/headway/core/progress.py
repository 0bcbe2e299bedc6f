"""How long work reports that it moves. Rooms report; only the command line draws."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Move on by `amount` units; `note` is a short text shown beside the bar (a loss, a layer's name)."""


class Progress(Protocol):
    """Receives the work's movement."""

    def work(self, title: str, total: float) -> AbstractContextManager[Bar]:
        """Open a piece of work of `total` units; close it by leaving the `with` block."""

    def say(self, text: str) -> None:
        """A line that stays: something was decided, found or finished."""


class _SilentBar:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Report to nobody."""


class Silent:
    """Reports to nobody: the default from Python."""

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        """Open a piece of work that nobody watches."""
        yield _SilentBar()

    def say(self, text: str) -> None:
        """Say nothing."""


SILENT: Progress = Silent()
