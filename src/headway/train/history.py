"""Whether a figure is out of line with its own recent past.

The Hampel identifier (Davies and Gather 1993; Hampel 1974): distance from the median in units of the median absolute
deviation. Neither is moved by the outliers that it is to find, as mean and standard deviation are. Gradient norms vary
by factors, so it is their logarithms that are compared.
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

_WINDOW = 64
_LEAST = 8  # values before the first judgement
_DEVIATIONS = 6.0
_CONSISTENT = 1.4826  # makes the median absolute deviation of a normal distribution its standard deviation
_FACTOR = 10.0  # a very steady figure may double without anything being wrong
_ZERO = 1e-30


class History:
    """The last 64 values of a figure that is not negative."""

    def __init__(self, logs: Iterable[float] = ()) -> None:
        self.logs = deque(logs, maxlen=_WINDOW)

    def jump(self, value: float) -> float:
        """`value` as a multiple of the median where it stands out above, else 0; `value` joins the history.

        It stands out if it is ten times the median and six robust standard deviations away from it.
        """
        log, found = math.log(max(value, _ZERO)), 0.0
        if len(self.logs) >= _LEAST:
            middle = median(self.logs)
            spread = _CONSISTENT * median(abs(one - middle) for one in self.logs)
            if log - middle > max(_DEVIATIONS * spread, math.log(_FACTOR)):
                found = self.ratio(value)
        self.logs.append(log)
        return found

    def ratio(self, value: float) -> float:
        """`value` as a multiple of the median; 0 while there is none."""
        return math.exp(min(math.log(max(value, _ZERO)) - median(self.logs), 300)) if self.logs else 0.0
