"""Dynamic batching: which requests share a run, and when that run starts.

**Why.** One run over 32 rows costs far less than 32 runs over one row: weights are read once, and kernels work on
matrices that fill the vector units. Requests come one by one, so somebody has to put them together. What that may
cost is waiting, and the rules below say when a row waits and for what.

**When a batch starts.** While no run is under way, whatever is queued starts at once: an idle session never waits,
and a lone caller pays nothing for batching. While a run is under way, requests queue, and the run itself is the time
in which the next batch forms: the busier the server, the fuller its batches. With one run at a time
(`parallel_runs=1`) that is all. With more, a further run starts beside the first as soon as a batch is full, or its
oldest row has waited for `window` seconds, whichever comes first. The clock starts at the oldest row.

**What goes into a batch.** Requests whose rows can be laid end to end: all their dimensions but the first agree. They
wait in one lane for each such shape, and lanes take turns by the age of their oldest request. `max_rows` counts rows,
not requests. A request that has more rows than that alone runs alone; it is never split, so a caller's rows are always
answered by one run. The order within a lane is the order of arrival: a large request is not overtaken until it fits.

**What never runs.** A request whose caller has gone (`drop`) and one whose deadline has passed (`take` hands it back as
late). Neither takes up room in the queue. Past `queue_rows` a request is refused at once, and one that is larger than
the whole queue always is: a run cannot be stopped, so a single huge request would keep everybody else waiting.

This file holds the rules and no clock, thread or event loop: time comes in as an argument, so that the tests can
drive it through any history. `runner.py` gives it threads.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from headway.serve.errors import FullError, TooLargeError

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class BatchLimits:
    """How far batching may go.

    Attributes:
        max_rows: rows of a batch.
        window: seconds that the oldest row waits for a further run to start beside one under way.
        queue_rows: rows that may wait, and that one request may have.
        parallel_runs: runs of one session at a time.
    """

    max_rows: int = 32
    window: float = 0.010
    queue_rows: int = 1024
    parallel_runs: int = 1


@dataclass(slots=True, eq=False)
class Job(Generic[Payload]):
    """One accepted request.

    Attributes:
        payload: the caller's; not looked at here.
        rows: at least 1.
        lane: what must agree for two requests to share a run; None runs alone.
        arrived: seconds on the caller's clock.
        deadline: on the same clock; it does not run from then on.
    """

    payload: Payload
    rows: int
    lane: Hashable
    arrived: float
    deadline: float = float("inf")


@dataclass(slots=True)
class _Lane(Generic[Payload]):
    jobs: "OrderedDict[Job[Payload], None]" = field(default_factory=OrderedDict)
    rows: int = 0

    def oldest(self) -> Job[Payload]:
        return next(iter(self.jobs))

    def remove(self, job: Job[Payload]) -> None:
        del self.jobs[job]
        self.rows -= job.rows


@dataclass(frozen=True, slots=True)
class Batch(Generic[Payload]):
    """What `take` hands out: `jobs` to run together, and `late` ones to refuse. Either may be empty."""

    jobs: list[Job[Payload]]
    late: list[Job[Payload]]


class Batcher(Generic[Payload]):
    """The queue of one session. Not thread-safe: one event loop owns it."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.queued_rows = 0
        self.running = 0
        self._lanes: dict[Hashable, _Lane[Payload]] = {}

    def offer(self, job: Job[Payload]) -> None:
        """Queue a request. Raises `FullError` or `TooLargeError` where it does not fit; then it was not accepted."""
        if job.rows > self.limits.queue_rows:
            raise TooLargeError(
                f"{job.rows} rows in one request; at most {self.limits.queue_rows} are taken",
                remedy="Send fewer a time.",
            )
        if self.queued_rows + job.rows > self.limits.queue_rows:
            raise FullError(f"{self.queued_rows} rows are waiting already", remedy="Try again in a moment.")
        # A request that can share no run gets a lane that nobody else can name.
        lane = self._lanes.setdefault(job if job.lane is None else job.lane, _Lane())
        lane.jobs[job] = None
        lane.rows += job.rows
        self.queued_rows += job.rows

    def drop(self, job: Job[Payload]) -> bool:
        """Forget a request that nobody waits for. False where it is not queued (any more)."""
        key = job if job.lane is None else job.lane
        lane = self._lanes.get(key)
        if lane is None or job not in lane.jobs:
            return False
        self._remove(key, lane, job)
        return True

    def take(self, now: float) -> Batch[Payload] | None:
        """The batch that starts now; None where none does. Each batch with jobs is followed by one `release`."""
        if self.running >= self.limits.parallel_runs or (key := self._due(now)) is None:
            return None
        lane = self._lanes[key]
        batch: Batch[Payload] = Batch([], [])
        rows = 0
        while lane.jobs:
            job = lane.oldest()
            if job.deadline <= now:
                batch.late.append(job)
            elif not batch.jobs or rows + job.rows <= self.limits.max_rows:
                batch.jobs.append(job)
                rows += job.rows
            else:
                break
            self._remove(key, lane, job)
        self.running += bool(batch.jobs)
        return batch

    def release(self) -> None:
        """A run has ended, well or not."""
        self.running -= 1

    def next_look(self) -> float | None:
        """When `take` may hand out a batch although nothing else happened; None if that cannot be."""
        if not self._lanes or not 0 < self.running < self.limits.parallel_runs:
            return None
        return min(lane.oldest().arrived for lane in self._lanes.values()) + self.limits.window

    def clear(self) -> list[Job[Payload]]:
        """Take every queued request out, to be refused."""
        left = [job for lane in self._lanes.values() for job in lane.jobs]
        self._lanes.clear()
        self.queued_rows = 0
        return left

    def _due(self, now: float) -> Hashable | None:
        """The lane whose batch starts now: a full one while busy, else the one with the oldest request."""
        if not self._lanes:
            return None
        if self.running:
            for key, lane in self._lanes.items():
                if lane.rows >= self.limits.max_rows:
                    return key
        key, lane = next(iter(self._lanes.items()))
        if len(self._lanes) > 1:
            key, lane = min(self._lanes.items(), key=lambda item: item[1].oldest().arrived)
        waited_enough = now >= lane.oldest().arrived + self.limits.window
        return key if not self.running or waited_enough else None

    def _remove(self, key: Hashable, lane: _Lane[Payload], job: Job[Payload]) -> None:
        lane.remove(job)
        self.queued_rows -= job.rows
        if not lane.jobs:
            del self._lanes[key]
