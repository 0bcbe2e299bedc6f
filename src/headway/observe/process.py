"""What the process itself does: how late its event loop is, and which of its threads use the processor."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

_EVERY_S = 0.1
_PER_THREAD_CPU = 6  # CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED of Linux's posix-timers.h


class LoopLag:
    """Asks the event loop to call at a certain time, again and again, and tells how late it was.

    Everything that answers requests runs in that loop, so this is what a request waits for before anybody looks at it.
    The loop's timers tick in milliseconds: less than one says nothing.
    """

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin, in the event loop that is running."""
        self._arm()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._due = time.perf_counter() + _EVERY_S
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)

    def _look(self) -> None:
        self._tell(max(time.perf_counter() - self._due, 0.0))
        self._arm()


class ThreadSeconds:
    """CPU seconds of this process' Python threads by what they do, which their names say: `headway-run-...`.

    A thread that ended keeps counting with what it was last seen at, for a counter must not fall. Native threads (the
    HTTP layer's, a runtime's own pool) are in none of them: they are what is left of the process' CPU seconds.
    """

    def __init__(self) -> None:
        self._loop_thread: threading.Thread | None = None
        self._seen: WeakKeyDictionary[threading.Thread, float] = WeakKeyDictionary()
        self._totals: dict[str, float] = {}

    def loop_is_here(self) -> None:
        """The calling thread runs the event loop."""
        self._loop_thread = threading.current_thread()

    def read(self) -> dict[str, float]:
        """CPU seconds by role: `loop`, `run`, others that our threads' names tell, and `other`. Empty but on Linux."""
        if sys.platform != "linux":
            return {}
        for thread in threading.enumerate():
            seconds = _cpu_seconds(thread)
            if seconds is not None:
                role = "loop" if thread is self._loop_thread else _role(thread.name)
                self._totals[role] = self._totals.get(role, 0.0) + seconds - self._seen.get(thread, 0.0)
                self._seen[thread] = seconds
        return dict(self._totals)


def _role(name: str) -> str:
    ours, _, rest = name.partition("-")
    return rest.split("-")[0] if ours == "headway" and rest else "other"


def _cpu_seconds(thread: threading.Thread) -> float | None:
    """None where it has ended: a clock made of its kernel id is refused then, where pthread's would be undefined."""
    if thread.native_id is None:
        return None
    try:
        return time.clock_gettime(~thread.native_id << 3 | _PER_THREAD_CPU)
    except OSError:
        return None
