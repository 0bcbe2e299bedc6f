"""A server in simulated time: callers, a batcher, and a session whose runs take as long as they are told to."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from headway.serve.batcher import Batch, Batcher, BatchLimits
from headway.serve.durations import Durations
from headway.serve.lane import Job

Duration = Callable[[bool], float]
Ask = tuple[int, tuple[int, ...]]
"""Rows and lengths of a request."""


@dataclass
class Outcome:
    """What came of a simulation.

    Attributes:
        latencies: seconds of each request from arrival to answer, in the order of the answers.
        seconds: that it took.
        batches: of all runs.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    batches: list[list[Job[bool]]] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[int(share * len(self.latencies))]


class Simulation:
    """One session. `poisson` or `callers` brings the requests; both return what came of the later four fifths."""

    def __init__(self, limits: BatchLimits, duration: Duration, ask: Callable[[], Ask] = lambda: (1, ())) -> None:
        durations = Durations()  # as a server has them from warming up
        for cost in (1, limits.max_rows):
            durations.learn(cost, duration(cost))
        self._batcher: Batcher[bool] = Batcher(limits, durations)
        self._duration = duration
        self._ask = ask
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._think: Callable[[], float] = float
        self.now = 0.0
        self._outcome = Outcome()

    def poisson(
        self, rate: float, requests: int, seed: int = 0, *, callers: int = 0, think: Callable[[], float] = float
    ) -> Outcome:
        """Requests that are independent of each other, `rate` a second; beside them, `callers` as below."""
        chance = random.Random(seed)
        for when in itertools.accumulate(chance.expovariate(rate) for _ in range(requests)):
            self._at(when, self._arrive)
        return self.callers(callers, think, requests)

    def callers(self, count: int, think: Callable[[], float], requests: int) -> Outcome:
        """Callers who ask again `think` seconds after they were answered."""
        self._think = think
        for _ in range(count):
            self._at(think(), partial(self._arrive, comes_back=True))
        return self._run(requests)

    def _run(self, requests: int) -> Outcome:
        warm, began = requests // 5, 0.0
        while self._events and len(self._outcome.latencies) < requests:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            self._look()
            if len(self._outcome.latencies) < warm:
                began = self.now
        self._outcome.seconds = self.now - began
        self._outcome.latencies = self._outcome.latencies[warm:]
        return self._outcome

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def _arrive(self, *, comes_back: bool = False) -> None:
        rows, lengths = self._ask()
        self._batcher.offer(Job(comes_back, rows, "lane", self.now, lengths=lengths))

    def _look(self) -> None:
        while (batch := self._batcher.take(self.now)) is not None:
            self._outcome.batches.append(batch.jobs)
            self._at(self.now + self._duration(batch.cost), partial(self._end, batch))
        if (when := self._batcher.next_look()) is not None:
            self._at(max(when, self.now + 0.001), lambda: None)

    def _end(self, batch: Batch[bool]) -> None:
        self._batcher.release(batch, self.now)
        for job in batch.jobs:
            self._outcome.latencies.append(self.now - job.arrived)
            if job.payload:
                self._at(self.now + self._think(), partial(self._arrive, comes_back=True))
