"""What a training run changes in its process, and puts back: threads and signals."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headway.core import machine


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads, or every core this process may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or machine.usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Interrupts:
    """Holds SIGINT and SIGTERM back while a step is under way: half of one must not be saved.

    The loop asks `pending` between steps, saves, and calls `deliver`, which does what the signal would have done. A
    second signal of the same kind is not held back. Outside the main thread nothing is held.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: set by other than Python, and not ours to move
                    self._before[number] = before
                    signal.signal(number, self._hold)
        return self

    def __exit__(self, *error: object) -> None:
        for number in list(self._before):
            self._restore(number)
        if self.pending is not None and error[0] is None:
            self.deliver()

    def _hold(self, number: int, frame: object) -> None:
        self.pending = number
        self._restore(number)

    def _restore(self, number: int) -> None:
        if (before := self._before.pop(number, None)) is not None:
            signal.signal(number, before)

    def deliver(self) -> None:
        """Raise the signal that was held back, with its own handler in place."""
        number, self.pending = self.pending, None
        if number is not None:
            self._restore(number)
            signal.raise_signal(number)
