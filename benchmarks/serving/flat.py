"""Whether a series of samples grows: the slope of a line through it, with limits."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

WARM_UP = 0.25  # part of the time at the beginning that is not looked at
BLOCKS = 16
_T = 2.145  # Student's t, 97.5%, with BLOCKS - 2 = 14 degrees of freedom


class Growth(NamedTuple):
    """How memory grew once warmed up.

    Attributes:
        slope: MB a minute.
        low, high: its 95% limits.
        first_mb, last_mb: medians of the first and the last block.
        minutes: that were looked at.
    """

    slope: float
    low: float
    high: float
    first_mb: float
    last_mb: float
    minutes: float

    @property
    def at_most_mb(self) -> float:
        """What it may have grown by in that time, at the slope's upper limit."""
        return self.high * self.minutes


def growth(seconds: Sequence[float], values_mb: Sequence[float]) -> Growth:
    """A line by least squares through the medians of 16 blocks of samples.

    Samples that follow each other are alike, and would make the limits of a line through themselves far too narrow;
    blocks are long against what makes them alike (batch means; Law, *Simulation Modeling and Analysis*, section 9.5).
    """
    keep = int(len(seconds) * WARM_UP)
    time = np.array([np.median(part) for part in np.array_split(np.asarray(seconds[keep:]) / 60, BLOCKS)])
    value = np.array([np.median(part) for part in np.array_split(np.asarray(values_mb[keep:]), BLOCKS)])
    centred = time - time.mean()
    slope = float(centred @ value / (centred @ centred))
    rest = value - value.mean() - slope * centred
    error = _T * sqrt(float(rest @ rest) / (BLOCKS - 2) / float(centred @ centred))
    minutes = (seconds[-1] - seconds[keep]) / 60
    return Growth(slope, slope - error, slope + error, float(value[0]), float(value[-1]), minutes)
