"""A server in simulated time: callers, a batcher, and a session whose runs take as long as they are told to."""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headway.serve.durations import Durations
from headway.serve.batcher import Batch, Batcher, BatchLimits, Job

Duration = Callable[[int], float]
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
    batches: list[list[Job[int]]] = field(default_factory=list)

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
        self._batcher: Batcher[int] = Batcher(limits, durations)
        self._duration = duration
        self._ask = ask
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._again: Callable[[], float | None] = lambda: None  # seconds until an answered caller asks again
        self.now = 0.0
        self._outcome = Outcome()

    def poisson(self, rate: float, requests: int, seed: int = 0) -> Outcome:
        """Requests that are independent of each other, `rate` a second."""
        chance = random.Random(seed)
        times = itertools.accumulate(chance.expovariate(rate) for _ in range(requests))
        return self._run(times, requests)

    def callers(self, count: int, think: Callable[[], float], requests: int) -> Outcome:
        """Callers who ask again `think` seconds after they were answered."""
        self._again = think
        return self._run(iter([think() for _ in range(count)]), requests)

    def _run(self, first: Iterator[float], requests: int) -> Outcome:
        for when in first:
            self._at(when, self._arrive)
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

    def _arrive(self) -> None:
        rows, lengths = self._ask()
        self._batcher.offer(Job(0, rows, "lane", self.now, lengths=lengths))

    def _look(self) -> None:
        while (batch := self._batcher.take(self.now)) is not None:
            self._outcome.batches.append(batch.jobs)
            self._at(self.now + self._duration(batch.cost), lambda batch=batch: self._end(batch))
        if (when := self._batcher.next_look()) is not None:
            self._at(max(when, self.now + 0.001), lambda: None)

    def _end(self, batch: Batch[int]) -> None:
        self._batcher.release(batch, self.now)
        for job in batch.jobs:
            self._outcome.latencies.append(self.now - job.arrived)
            if (seconds := self._again()) is not None:
                self._at(self.now + seconds, self._arrive)
