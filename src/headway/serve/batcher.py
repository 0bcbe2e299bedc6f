"""Dynamic batching: which requests share a run, and when that run starts.

**Why.** One run over 32 rows costs far less than 32 runs over one row: weights are read once, and kernels work on
matrices that fill the vector units. Requests come one by one, so somebody has to put them together. What that may cost
is waiting, and the rules below say when a row waits and for what.

**When a batch starts.** While no run is under way, whatever is queued starts at once: an idle session never waits, and
a lone caller pays nothing for batching. While a run is under way, requests queue, and the run itself is the time in
which the next batch forms: the busier the server, the fuller its batches. With one run at a time (`parallel_runs=1`)
that is all. With more, a further run starts beside the first as soon as a batch is full, or its oldest row has waited
for `window` seconds, whichever comes first. The clock starts at the oldest row. The adaptive policy (`adaptive.py`) may
also hold a batch back while the session is idle, where waiting is expected to pay.

**What goes into a batch.** Requests whose rows can be laid end to end: all their dimensions but the first agree, or are
padded (`padding.py`). They wait in one lane for each such shape, and lanes take turns by their first requests.
`max_rows` counts rows, not requests. A request that has more rows than that alone runs alone; it is never split, so a
caller's rows are always answered by one run. Lanes without lengths are served in order: a large request is not
overtaken until it fits. From a lane with lengths, the first request runs with its neighbours in length (`ragged.py`).

**Priority.** Level 1 goes first. So that nobody starves, a request ages: `ageing` seconds of waiting are worth one
level, so that it is overtaken by no request that comes later than `ageing` seconds for each level between them. Among
the same level, the older one is first.

**What never runs.** A request whose caller has gone (`drop`) and one whose deadline has passed (`take` hands it back as
late). Neither takes up room in the queue. Past `queue_rows` a request is refused at once, and one that is larger than
the whole queue always is: a run cannot be stopped, so a single huge request would keep everybody else waiting.

This file holds the rules and no clock, thread or event loop: time comes in as an argument, so that the tests can drive
it through any history. `runner.py` gives it threads.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from math import prod
from typing import Generic, TypeVar

from headway.core.errors import RequestError
from headway.serve.adaptive import Adaptive
from headway.serve.durations import Durations
from headway.serve.errors import FullError, TooLargeError
from headway.serve.lane import LEVELS, Job, Lane, by_due
from headway.serve.ragged import pick

Payload = TypeVar("Payload")

_NEIGHBOURS = 256  # waiting requests among which a batch of different lengths is looked for


@dataclass(frozen=True)
class BatchLimits:
    """How far batching may go.

    Attributes:
        max_rows: rows of a batch.
        window: seconds that the oldest row waits for a further run to start beside one under way.
        queue_rows: rows that may wait, and that one request may have.
        parallel_runs: runs of one session at a time.
        max_padding: what padding may add to a batch, as a share of its real elements.
        default_priority: of a request that asks for none.
        ageing: seconds of waiting that are worth a level of priority.
        adaptive: whether a batch waits for callers whom `adaptive.py` expects.
        latency_target: seconds from arrival to answer that such a wait keeps.
        brief: seconds; a lone request whose run is expected to be shorter runs in the event loop, for to wake a thread
            and be woken by it costs more than others would wait. 0: none does.
    """

    max_rows: int = 32
    window: float = 0.010
    queue_rows: int = 1024
    parallel_runs: int = 1
    max_padding: float = 0.25
    default_priority: int = 5
    ageing: float = 1.0
    adaptive: bool = False
    latency_target: float | None = None
    brief: float = 0.0

    def priority(self, asked: int) -> int:
        """From 1, the highest, to `LEVELS`, for what a request asks, where 0 is the default.

        Raises:
            RequestError: there is no such priority.
        """
        if not 0 <= asked <= LEVELS:
            raise RequestError(f"must be from 1, the highest, to {LEVELS}; 0 is the default", where="priority")
        return asked or self.default_priority


@dataclass(frozen=True, slots=True)
class Batch(Generic[Payload]):
    """What `take` hands out.

    Attributes:
        jobs: to run together; may be empty.
        late: to refuse; may be empty.
        cost: of the run: its rows, or its elements with their padding.
        began: seconds on the caller's clock.
    """

    jobs: list[Job[Payload]]
    late: list[Job[Payload]]
    cost: int
    began: float


class Batcher(Generic[Payload]):
    """The queue of one session. Not thread-safe: one event loop owns it."""

    def __init__(self, limits: BatchLimits, durations: Durations | None = None) -> None:
        self.limits = limits
        self.queued = self.queued_rows = 0
        self.running = 0
        self._lanes: dict[Hashable, Lane[Payload]] = {}
        self._durations = durations or Durations()
        self._policy = Adaptive(self._durations, limits.latency_target) if limits.adaptive else None
        self._held_until: float | None = None

    def offer(self, job: Job[Payload]) -> None:
        """Queue a request.

        Raises:
            RequestError: there is no such priority. As with the other two, it was not accepted.
            TooLargeError: it has more rows than the whole queue.
            FullError: too many are waiting.
        """
        priority = self.limits.priority(job.priority)
        if job.rows > self.limits.queue_rows:
            raise TooLargeError(
                f"{job.rows} rows in one request; at most {self.limits.queue_rows} are taken",
                remedy="Send fewer a time.",
            )
        if self.queued_rows + job.rows > self.limits.queue_rows:
            raise FullError(f"{self.queued_rows} rows are waiting already", remedy="Try again in a moment.")
        job.priority = priority
        job.due = job.arrived + job.priority * self.limits.ageing
        if job.lengths:
            job.size = prod(job.lengths)
        # A request that can share no run gets a lane that nobody else can name.
        key = job if job.lane is None else job.lane
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
        lane.add(job)
        self.queued += 1
        self.queued_rows += job.rows
        if self._policy is not None:
            self._policy.arrived(job.arrived, job.rows * job.size)

    def drop(self, job: Job[Payload]) -> bool:
        """Forget a request that nobody waits for. False where it is not queued (any more)."""
        key = job if job.lane is None else job.lane
        lane = self._lanes.get(key)
        if lane is None or job not in lane:
            return False
        self._remove(key, lane, job)
        return True

    def take(self, now: float) -> Batch[Payload] | None:
        """The batch that starts now; None where none does. Each batch with jobs is followed by one `release`."""
        self._held_until = None
        if self.running >= self.limits.parallel_runs or (key := self._next_lane(now)) is None:
            return None
        lane = self._lanes[key]
        batch = self._batch(lane, now)
        for job in batch.late:
            self._remove(key, lane, job)
        for job in batch.jobs:
            self._remove(key, lane, job)
        self.running += bool(batch.jobs)
        return batch

    def is_brief(self, batch: Batch[Payload]) -> bool:
        """Whether it is one request, nobody waits behind it, and its run is known to be short."""
        if len(batch.jobs) > 1 or self.queued or not self._durations.known:
            return False
        return self._durations.of(batch.cost) < self.limits.brief

    def release(self, batch: Batch[Payload], now: float) -> None:
        """The run of this batch has ended, well or not."""
        self.running -= 1
        self._durations.learn(batch.cost, now - batch.began)
        if self._policy is not None:
            self._policy.ended(now, len(batch.jobs), self.queued)

    def next_look(self) -> float | None:
        """When `take`, which has just handed out nothing, may do so although nothing else happened; None for never."""
        if not self._lanes:
            return None
        if not self.running:
            return self._held_until
        return self._oldest() + self.limits.window if self.running < self.limits.parallel_runs else None

    def clear(self) -> list[Job[Payload]]:
        """Take every queued request out, to be refused."""
        left = [job for lane in self._lanes.values() for job in lane.in_turn()]
        self._lanes.clear()
        self.queued = self.queued_rows = 0
        return left

    def _next_lane(self, now: float) -> Hashable | None:
        """The lane whose batch starts now: a full one while busy, else the one whose first request goes first."""
        if not self._lanes:
            return None
        if self.running:
            for key, lane in self._lanes.items():
                if lane.rows >= self.limits.max_rows:
                    return key
            if now < self._oldest() + self.limits.window:
                return None
        if len(self._lanes) > 1:
            return min(self._lanes, key=lambda key: min(map(by_due, self._lanes[key].heads())))
        key, lane = next(iter(self._lanes.items()))
        return None if self._policy is not None and self._holds(self._policy, lane, now) else key

    def _holds(self, policy: Adaptive, lane: Lane[Payload], now: float) -> bool:
        """Whether the policy lets the only lane wait although the session is idle."""
        if self.running or lane.rows >= self.limits.max_rows or lane.heads()[0].lane is None:
            return False
        until = policy.start(now)
        if until <= now or until + self._durations.of(lane.cost) > min(job.deadline for job in lane.in_turn()):
            return False
        self._held_until = until
        return True

    def _oldest(self) -> float:
        """When the oldest request arrived."""
        return min(job.arrived for lane in self._lanes.values() for job in lane.heads())

    def _batch(self, lane: Lane[Payload], now: float) -> Batch[Payload]:
        late: list[Job[Payload]] = []
        jobs: list[Job[Payload]] = []
        rows = 0
        for job in lane.in_turn():
            if job.deadline <= now:
                late.append(job)
            elif job.lengths:
                jobs.append(job)
                if len(jobs) == _NEIGHBOURS:
                    break
            elif not jobs or rows + job.rows <= self.limits.max_rows:
                jobs.append(job)
                rows += job.rows
            else:
                break
        if jobs and jobs[0].lengths:
            return self._neighbours(jobs, late, now)
        return Batch(jobs, late, rows, now)

    def _neighbours(self, waiting: list[Job[Payload]], late: list[Job[Payload]], now: float) -> Batch[Payload]:
        """A batch of requests whose lengths are near to that of the first."""
        line, size = self._durations, waiting[0].size
        jobs = pick(
            waiting,
            max_rows=self.limits.max_rows,
            max_padding=self.limits.max_padding,
            overhead=line.fixed / line.per_unit if line.known else size,
        )
        longest = map(max, zip(*(job.lengths for job in jobs), strict=True))
        return Batch(jobs, late, sum(job.rows for job in jobs) * prod(longest), now)

    def _remove(self, key: Hashable, lane: Lane[Payload], job: Job[Payload]) -> None:
        lane.remove(job)
        self.queued -= 1
        self.queued_rows -= job.rows
        if not lane.rows:
            del self._lanes[key]
