"""How much of the machine other processes took while something was measured."""

import time

import psutil


class Others:
    """Counts from when it is made. In a container the whole machine's processors are seen."""

    def __init__(self) -> None:
        self._before = _sample()

    def share(self) -> float:
        """Of all processors' time since then, what was neither idle nor this process's, 0 to 1."""
        spent = [now - before for now, before in zip(_sample(), self._before, strict=True)]
        elapsed, busy, own = spent
        return min(1.0, max(0.0, (busy - own) / max(1e-9, elapsed * (psutil.cpu_count() or 1))))


def _sample() -> tuple[float, float, float]:
    """Seconds: of the clock, of all processors at work, of this process at work."""
    own, whole = psutil.Process().cpu_times(), psutil.cpu_times()
    # Linux counts a guest's time as user time, too.
    idle = sum(getattr(whole, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
    return time.monotonic(), sum(whole) - idle, own.user + own.system
