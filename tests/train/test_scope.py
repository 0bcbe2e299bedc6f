"""Threads and signals are put back."""

import signal

import pytest
import torch

from headway.train.scope import Interrupts, threads


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(3):
            assert torch.get_num_threads() == 3
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.get_num_threads() == before


def test_a_signal_waits_until_it_is_delivered() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.pending == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            interrupts.deliver()
        assert interrupts.pending is None
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_is_not_held() -> None:
    reached = []

    def work() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            reached.append("after the first")
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the first"]


def test_a_signal_nobody_asked_for_is_delivered_at_the_end() -> None:
    def work() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
