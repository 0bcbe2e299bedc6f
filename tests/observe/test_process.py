"""What the process does: the lag of its event loop, and which threads use the processor."""

import asyncio
import sys
import threading
import time

import pytest

from headway.observe.process import LoopLag, ThreadSeconds

linux = pytest.mark.skipif(sys.platform != "linux", reason="the clocks of single threads are Linux's")


def test_a_loop_that_is_held_up_is_late() -> None:
    async def held_up() -> list[float]:
        found: list[float] = []
        told = asyncio.Event()

        def tell(seconds: float) -> None:
            found.append(seconds)
            told.set()

        lag = LoopLag(tell)
        lag.start()
        time.sleep(0.4)
        await told.wait()
        told.clear()
        await told.wait()  # it goes on
        lag.stop()
        lag.stop()
        return found

    first, second = asyncio.run(held_up())
    assert first > 0.2
    assert second >= 0


def burn(stop: threading.Event, ready: threading.Event) -> None:
    while time.thread_time() < 0.05:
        pass
    ready.set()
    stop.wait()


@linux
def test_seconds_are_told_by_role_and_do_not_fall() -> None:
    clocks, stop, ready = ThreadSeconds(), threading.Event(), threading.Event()
    clocks.loop_is_here()
    thread = threading.Thread(target=burn, args=(stop, ready), name="headway-run-a-model:with-dashes-0")
    thread.start()
    assert ready.wait(30)
    before = clocks.read()
    stop.set()
    thread.join()
    after = clocks.read()
    assert before["run"] >= 0.05
    assert after["run"] == before["run"]  # it ended; what it took stays counted
    assert after["loop"] >= before["loop"] > 0
    assert set(after) <= {"loop", "run", "other"}


@linux
def test_it_is_what_the_thread_itself_measures() -> None:
    clocks = ThreadSeconds()
    clocks.loop_is_here()
    earliest = time.thread_time()
    seen = clocks.read()["loop"]
    assert earliest <= seen <= time.thread_time()
