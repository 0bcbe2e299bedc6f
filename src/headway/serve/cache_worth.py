"""Whether looking answers up pays, decided from what it costs and saves on the traffic that comes.

**The account.** Each request that is looked up costs the seconds that its key, the lookup, and on a miss the keeping,
were measured to take. Each hit saves what a run lately costs a request. The balance of both, in seconds, is kept at
zero or below: what was won long ago does not excuse what is lost now (a one-sided CUSUM test; Page, Biometrika 1954).
When it falls to `-budget_s` the cache switches itself off, so `budget_s` is what a change for the worse can cost.
Traffic that repeats, but only after a while, has as much to spend on warming up.

**Off**, one request in some 64, at random, is looked up among the keys of earlier such requests (their answers are not
kept), and the balance moves by 64 times what this shows. Where requests come independently of each other, a random
sample of them repeats as often as all of them do. To come back, hits must save twice what looking up costs. What
repeats only within moments, such as a caller's retries, is not seen in a sample: then the cache stays off.

One request is charged at most a tenth of the budget: a machine that stalls for a moment says nothing of the traffic. A
run's cost is its duration shared among the requests in it, which is what a busy server could have answered others
with; waiting in the queue is not counted. Time comes in as an argument or is asked of the metrics, so that tests can
drive this through any traffic.
"""

import random
from collections.abc import Callable

from headway.serve.cache_store import Recent

SAMPLE = 64  # one request in so many, while off
BUDGET_S = 0.1
_MARGIN = 2.0
_DISPATCH_S = 10e-6  # the queue and the way to a worker and back cost this beside the run, at 32 callers; more at fewer
_FLIGHT_S = 8e-6  # the task, future and timer of a miss
_REFRESH = 32  # runs between two looks at what they cost

# Asked for: seconds that runs took so far, a run counted once whatever its rows; and the requests in them.
Runs = Callable[[], tuple[float, int]]


class Worth:
    """The account of one cache.

    Args:
        runs: what runs cost.
        budget_s: what looking up may lose before it is switched off.

    Attributes:
        on: whether every request is looked up.
        room: how many keys are remembered while off: as many as there would be answers.
    """

    def __init__(self, runs: Runs, budget_s: float = BUDGET_S) -> None:
        self.on = True
        self.room = 1024
        self._runs = runs
        self._budget_s = budget_s
        self._balance = 0.0
        self._run_s = self._keep_s = 0.0  # what a run costs a request, and keeping its answer
        self._known = 0.0, 0
        self._chance = random.Random()  # noqa: S311  (not a secret)
        self._until_sample = 0
        self._sampled = Recent()

    def passes(self) -> bool:
        """Whether the next request is not to be looked up."""
        if self.on:
            return False
        self._until_sample -= 1
        if self._until_sample > 0:
            return True
        self._until_sample = self._chance.randint(1, 2 * SAMPLE - 1)
        return False

    def looked_up(self, seconds: float, *, hit: bool) -> None:
        """While on: a lookup took `seconds`."""
        self._refresh()
        self._spend(self._charge(seconds) - self._run_s * hit)

    def kept(self, seconds: float) -> None:
        """While on: the answer of a miss took `seconds` to keep."""
        seconds = self._charge(seconds) + _FLIGHT_S
        self._keep_s += (seconds - self._keep_s) / 8
        self._spend(seconds)

    def sampled(self, key: bytes, seconds: float) -> None:
        """While off: a sampled request has this key, which took `seconds`."""
        self._refresh()
        hit = key in self._sampled
        if not hit:
            self._sampled.add(key)
            self._sampled.trim(self.room)
        cost = self._charge(seconds) + self._keep_s * (not hit)
        self._balance = max(self._balance + SAMPLE * (self._run_s * hit - _MARGIN * cost), -self._budget_s)
        if self._balance >= 0:
            self.on, self._balance = True, 0.0
            self._sampled.trim(0)

    def _charge(self, seconds: float) -> float:
        return min(seconds, self._budget_s / 10)

    def _spend(self, seconds: float) -> None:
        if not self.on:  # a run that began before it was switched off
            return
        self._balance = min(self._balance - seconds, 0.0)
        if self._balance <= -self._budget_s and self._run_s:
            self.on = False
            self._until_sample = 0

    def _refresh(self) -> None:
        seconds, count = self._runs()
        ran = count - self._known[1]
        if ran >= _REFRESH or (ran and not self._run_s):
            found = (seconds - self._known[0]) / ran + _DISPATCH_S
            self._run_s = (self._run_s + found) / 2 if self._run_s else found
            self._known = seconds, count
