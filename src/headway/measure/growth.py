"""Whether a series of samples grows: the slope of a line through it, with limits."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

WARM_UP = 0.25  # part of the samples at the beginning that is not looked at
BLOCKS = 16
_T = 2.145  # Student's t, 97.5%, with BLOCKS - 2 = 14 degrees of freedom
_RISES = 12  # of 15 steps from block to block: by chance alone in 1.8% of all series (sign test)


class Growth(NamedTuple):
    """How a value grew once warmed up, in its own unit a unit of `at` (seconds, minutes, rounds).

    Attributes:
        slope: of the line.
        low, high: its 95% limits.
        first, last: medians of the first and the last block.
        span: of `at` that was looked at.
        rises: how many of the 15 steps from one block to the next go up.
    """

    slope: float
    low: float
    high: float
    first: float
    last: float
    span: float
    rises: int

    @property
    def at_most(self) -> float:
        """What it may have grown by over the span, at the slope's upper limit."""
        return self.high * self.span

    @property
    def steady(self) -> bool:
        """Whether it grows, and goes on to. A line through one step upwards has a slope that differs from 0, too."""
        return self.low > 0 and self.rises >= _RISES


def growth(at: Sequence[float], values: Sequence[float], *, warm_up: float = WARM_UP) -> Growth:
    """A line by least squares through the medians of 16 blocks of samples.

    Samples that follow each other are alike, and would make the limits of a line through themselves far too narrow;
    blocks are long against what makes them alike (batch means; Law, *Simulation Modeling and Analysis*, section 9.5).

    Args:
        at: when each sample was taken, at least 16 of them after warming up.
        values: the samples.
        warm_up: the share of them at the beginning that is left out.
    """
    keep = int(len(at) * warm_up)
    time = np.array([np.median(part) for part in np.array_split(np.asarray(at[keep:], float), BLOCKS)])
    value = np.array([np.median(part) for part in np.array_split(np.asarray(values[keep:], float), BLOCKS)])
    centred = time - time.mean()
    slope = float(centred @ value / (centred @ centred))
    rest = value - value.mean() - slope * centred
    error = _T * sqrt(float(rest @ rest) / (BLOCKS - 2) / float(centred @ centred))
    rises = int(np.count_nonzero(np.diff(value) > 0))
    return Growth(slope, slope - error, slope + error, float(value[0]), float(value[-1]), at[-1] - at[keep], rises)
