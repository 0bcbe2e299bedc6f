"""The adaptive policy: when it pays to wait for a fuller batch.

A run of n rows takes D(n) = a*n + b seconds (`durations.py` learns a and b). b is paid once a run, so that larger
batches answer more rows a second, up to 1/a. What follows for one session that runs one batch at a time:

**Idle, few requests.** To wait for a row that comes 1/rate seconds later delays everybody who is there, and every run
after that, by as much. It never pays, and is never done.

**Busy, requests that know nothing of each other** (a Poisson process). The run under way is the wait. The rows that
come in meanwhile form the next batch, and batches grow by themselves to n = rate*b / (1 - rate*a), at which the session
just keeps up. To hold a run back beyond that makes each cycle longer and each answer later, and brings no more
requests. So the session starts as soon as it is free.

**Busy, requests that follow answers** (N callers who each ask again once they are answered). Here greed costs. While
one half of the callers runs, the other half queues; then they swap, for ever: N rows take two runs, a*N + 2*b. Had the
session waited for the g seconds in which the answered come back, all would share one run, a*N + b + g. So when a run
ends, with k requests waiting already and m of the answered expected back within w seconds, waiting saves a run, b, for
each of the m. It costs each of the k requests w, and each of the m about half of it. Hence wait where

    m * b  >  (k + m/2) * w

and no longer than until the m are there. m and w come from what followed earlier runs: how many requests came within 1,
1.5, 2, 3, ... ms of their ends, as a share of the requests that were answered. Of n answered, a share p asks again
within w, and everybody else is spread evenly over the time between two ends, C, so that p*n + (all - p*n) * w/C come in
w: that gives p. Requests that know nothing of each other have p = 0, and nobody waits for them. Nobody is waited for
either where the fuller run would end past the latency target.

**Smaller batches than there could be** do not help: of the requests that wait, the last is answered later by each b
that is paid more, and the largest batch is what keeps up with most. (Where a*n is nearly all of D(n), halves of a queue
would answer some callers sooner; in simulations that was a tenth of the 99th percentile at best, and cost more close to
saturation.)

When a batch server should start, and with how many: R. Deb and R. Serfozo, "Optimal control of batch service queues",
Advances in Applied Probability 5 (1973).
"""

from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

from headway.serve.durations import Durations

EDGES = (0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032)
"""Seconds after the end of a run by which arrivals are counted, and until which a batch may wait. The event loop's
timers count in milliseconds."""

_FORGET = 0.2  # the weight of the last cycle in the mean
_SEEN = 0.5  # share of a cycle past which those who come back look like anybody else


class Adaptive:
    """What the policy has learned of one session's callers. Times are seconds on the batcher's clock.

    Args:
        durations: of the session's runs; learned elsewhere.
        target: seconds from arrival to answer past which nobody is waited for, or None.
    """

    __slots__ = (
        "_answered", "_came", "_cost", "_durations", "_ended", "_mean", "_requests", "_target", "_until", "_wanted",
    )  # fmt: skip

    def __init__(self, durations: Durations, target: float | None) -> None:
        self._durations = durations
        self._target = target
        self._mean: _Cycle | None = None
        # Of the last run: when it ended, the requests it answered, until when and for how many the next one waits
        self._ended = self._until = float("-inf")
        self._answered = self._wanted = 0
        # Since then: requests and their cost, and how many came before each edge
        self._requests = self._cost = 0
        self._came = [0] * (len(EDGES) + 1)

    def arrived(self, now: float, cost: int) -> None:
        """A request was queued."""
        if not self._answered:
            return
        self._came[bisect_right(EDGES, now - self._ended)] += 1
        self._requests += 1
        self._cost += cost

    def ended(self, now: float, requests: int, waiting: int) -> None:
        """A run that answered so many requests ended, while others waited."""
        if self._durations.fixed <= EDGES[0]:  # there is nothing to gain, and short runs stay cheap
            self._answered = self._wanted = 0
            return
        if self._answered:
            came = tuple(accumulate(self._came[:-1]))
            cycle = _Cycle(now - self._ended, self._answered, self._requests, self._cost, came)
            self._mean = cycle if self._mean is None else self._mean.moved(cycle)
        self._ended, self._answered = now, requests
        self._requests = self._cost = 0
        self._came = [0] * (len(EDGES) + 1)
        self._until, self._wanted = now, 0
        if self._mean is not None:
            self._plan(self._mean, waiting)

    def _plan(self, mean: "_Cycle", waiting: int) -> None:
        """Decide whom the next run waits for."""
        fixed, best, until, wanted = self._durations.fixed, 0.0, 0.0, 0
        for edge, came in zip(EDGES, mean.came, strict=True):
            if edge > _SEEN * mean.seconds:
                break
            back = self._answered * mean.back(edge, came)
            gain = back * fixed - (waiting + back / 2) * edge
            if gain > best:
                best, until, wanted = gain, edge, round(back)
        if wanted:
            run = self._durations.of((waiting + wanted) * mean.cost / mean.requests)
            if self._target is None or until + run <= self._target:
                self._until, self._wanted = self._ended + until, wanted

    def start(self, now: float) -> float:
        """When a batch that could start now had better start: now, or a little later."""
        return self._until if self._requests < self._wanted and self._until > now else now


class _Cycle(NamedTuple):
    """From the end of one run to that of the next, or the mean of such.

    Attributes:
        seconds: that it took.
        answered: requests, by the run it began with.
        requests: that arrived in it.
        cost: of those.
        came: of those, how many before each edge.
    """

    seconds: float
    answered: float
    requests: float
    cost: float
    came: tuple[float, ...]

    def moved(self, other: "_Cycle") -> "_Cycle":
        """The mean, once another cycle is over."""

        def mean(old: float, new: float) -> float:
            return old + _FORGET * (new - old)

        return _Cycle(
            mean(self.seconds, other.seconds),
            mean(self.answered, other.answered),
            mean(self.requests, other.requests),
            mean(self.cost, other.cost),
            tuple(map(mean, self.came, other.came)),
        )

    def back(self, edge: float, came: float) -> float:
        """The share of the answered who ask again before `edge`, beside arrivals that are spread evenly."""
        even = edge / self.seconds
        return min(max((came - even * self.requests) / (1 - even) / self.answered, 0.0), 1.0)
