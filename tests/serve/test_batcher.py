"""The rules of batching, held against any history of arrivals, cancellations, runs and time."""

from collections import Counter
from collections.abc import Sequence
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headway.core.errors import RequestError
from headway.serve.adaptive import EDGES
from headway.serve.batcher import Batch, Batcher, BatchLimits
from headway.serve.durations import Durations
from headway.serve.errors import FullError, TooLargeError
from headway.serve.lane import LEVELS, Job

SETTINGS = settings(max_examples=150, stateful_step_count=40, deadline=None)
MS = 0.001
LANES = {"a": 0, "b": 0, "ragged": 1, "pictures": 2, None: 0}
"""How many lengths a request of each lane has."""


class History(RuleBasedStateMachine):
    """Drives a batcher with a clock of its own and remembers what became of every request."""

    @initialize(
        max_rows=st.integers(1, 8),
        queue_rows=st.integers(1, 20),
        runs=st.integers(1, 3),
        window=st.sampled_from([0, 5]),
        ageing=st.sampled_from([0, 3]),
        adaptive=st.booleans(),
    )
    def begin(self, max_rows: int, queue_rows: int, runs: int, window: int, ageing: int, adaptive: bool) -> None:
        self.limits = BatchLimits(
            max_rows, window * MS, queue_rows, runs, max_padding=0.5, ageing=ageing * MS, adaptive=adaptive
        )
        durations = Durations()
        for cost in (1, 8):
            durations.learn(cost, (cost + 20) * MS)  # waiting would often pay
        self.batcher: Batcher[int] = Batcher(self.limits, durations)
        self.now = 0.0
        self.queued: dict[int, Job[int]] = {}
        self.running: list[Batch[int]] = []
        self.ends: Counter[int] = Counter()
        self.accepted: set[int] = set()
        self.serial = 0
        self.last_end = float("-inf")

    @rule(
        rows=st.integers(1, 12),
        lane=st.sampled_from(list(LANES)),
        lengths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        priority=st.sampled_from([0, 0, 1, 9]),
        patience=st.sampled_from([1, 7, 1000]),
    )
    def arrives(self, rows: int, lane: str | None, lengths: tuple[int, int], priority: int, patience: int) -> None:
        waiting = sum(job.rows for job in self.queued.values())
        job = Job(
            self.serial, rows, lane, self.now, self.now + patience * MS, lengths[: LANES[lane]], priority=priority
        )
        self.serial += 1
        try:
            self.batcher.offer(job)
        except TooLargeError:
            assert rows > self.limits.queue_rows, "refused although it fits an empty queue"
        except FullError:
            assert rows <= self.limits.queue_rows < waiting + rows, "refused although there was room"
        else:
            assert waiting + rows <= self.limits.queue_rows, "accepted past the bound"
            self.queued[job.payload] = job
            self.accepted.add(job.payload)

    @rule(which=st.integers(0, 50))
    def caller_leaves(self, which: int) -> None:
        if self.queued:
            number = sorted(self.queued)[which % len(self.queued)]
            assert self.batcher.drop(self.queued.pop(number))
            self.ends[number] += 1

    @rule()
    def drop_of_a_running_request_changes_nothing(self) -> None:
        for batch in self.running:
            assert not any(self.batcher.drop(job) for job in batch.jobs)

    @rule(milliseconds=st.integers(1, 10))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds * MS

    @rule()
    def looks(self) -> None:
        busy, before = len(self.running), dict(self.queued)
        batch = self.batcher.take(self.now)
        if batch is None:
            self._check_waiting_is_allowed(busy)
            return
        for job in [*batch.jobs, *batch.late]:
            assert self.queued.pop(job.payload) is job, "handed out twice, or after its caller left"
        for job in batch.late:
            assert job.deadline <= self.now
            self.ends[job.payload] += 1
        if batch.jobs:
            self._check_batch(batch.jobs, busy, before)
            self.running.append(batch)

    def _check_waiting_is_allowed(self, busy: int) -> None:
        if not self.queued or busy >= self.limits.parallel_runs:
            return
        oldest = min(job.arrived for job in self.queued.values())
        if busy:
            assert self.now < oldest + self.limits.window, "the oldest row has waited for longer than the window"
            assert self.batcher.next_look() == oldest + self.limits.window
            return
        assert self.limits.adaptive, "an idle session lets a request wait"
        until = self.batcher.next_look()
        assert until is not None, "an idle session forgets a request"
        assert self.now < until <= self.last_end + EDGES[-1]
        assert until < min(job.deadline for job in self.queued.values()), "held back past a deadline"
        assert {job.lane for job in self.queued.values()} in ({"a"}, {"b"}, {"ragged"}, {"pictures"})
        assert sum(job.rows for job in self.queued.values()) < self.limits.max_rows, "a full batch waits"

    def _check_batch(self, jobs: Sequence[Job[int]], busy: int, before: dict[int, Job[int]]) -> None:
        rows = sum(job.rows for job in jobs)
        assert busy < self.limits.parallel_runs
        assert rows <= self.limits.max_rows or len(jobs) == 1, "more rows than a batch may have"
        assert all(job.deadline > self.now for job in jobs), "a request ran past its deadline"
        assert len({job.lane for job in jobs}) == 1
        assert len(jobs) == 1 or jobs[0].lane is not None, "a request that shares no run shared one"
        mates = sorted((job for job in before.values() if job.lane == jobs[0].lane), key=self._turn)
        in_time = [job for job in mates if job.deadline > self.now]
        if LANES[jobs[0].lane]:
            assert jobs[0] is in_time[0], "the first in turn is not in the next batch"
            self._check_padding(jobs)
        elif jobs[0].lane is not None:
            assert in_time[: len(jobs)] == list(jobs), "overtaken"
        if busy:
            lane_rows = sum(job.rows for job in mates) if jobs[0].lane is not None else jobs[0].rows
            oldest = min(job.arrived for job in before.values())
            assert lane_rows >= self.limits.max_rows or self.now >= oldest + self.limits.window, "started too early"
        elif all(job.deadline > self.now for job in before.values()):
            assert self._turn(jobs[0]) == min(map(self._turn, before.values())), "somebody else was first in turn"
        if not busy and not LANES[jobs[0].lane]:
            assert self._left_fit_no_more(jobs, rows), "the batch is not as full as it could be"

    def _turn(self, job: Job[int]) -> float:
        """Who arrived first, where each level counts like some time of waiting."""
        return job.arrived + job.priority * self.limits.ageing

    def _check_padding(self, jobs: Sequence[Job[int]]) -> None:
        longest = map(max, zip(*(job.lengths for job in jobs), strict=True))
        padded = sum(job.rows for job in jobs) * prod(longest)
        real = sum(job.rows * prod(job.lengths) for job in jobs)
        assert padded <= (1 + self.limits.max_padding) * real, "more padding than is allowed"

    def _left_fit_no_more(self, jobs: Sequence[Job[int]], rows: int) -> bool:
        left = sorted((j for j in self.queued.values() if j.lane == jobs[0].lane is not None), key=self._turn)
        return not left or rows + left[0].rows > self.limits.max_rows

    @precondition(lambda self: bool(self.running))
    @rule(which=st.integers(0, 5))
    def run_ends(self, which: int) -> None:
        batch = self.running.pop(which % len(self.running))
        self.batcher.release(batch, self.now)
        self.last_end = self.now
        self.ends.update(job.payload for job in batch.jobs)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.queued == len(self.queued)
            assert self.batcher.queued_rows == sum(job.rows for job in self.queued.values())
            assert self.batcher.running == len(self.running)

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        for batch in self.running:
            self.ends.update(job.payload for job in batch.jobs)
        self.ends.update(job.payload for job in self.batcher.clear())
        assert self.ends == Counter(self.accepted), "a request was lost or ended twice"
        assert self.batcher.queued_rows == 0
        assert self.batcher.take(self.now) is None


TestHistory = History.TestCase
TestHistory.settings = SETTINGS


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 32))
def test_everything_queued_while_busy_runs_in_order_and_in_full_batches(rows: list[int], max_rows: int) -> None:
    batcher: Batcher[int] = Batcher(BatchLimits(max_rows=max_rows, queue_rows=10_000))
    for number, count in enumerate(rows):
        batcher.offer(Job(number, count, "lane", arrived=float(number)))
    ran: list[int] = []
    while (batch := batcher.take(1000.0)) is not None:
        assert batcher.take(1000.0) is None, "two runs at a time where one is allowed"
        ran += [job.payload for job in batch.jobs]
        following = len(ran)
        total = sum(job.rows for job in batch.jobs)
        assert following == len(rows) or total + rows[following] > max_rows
        batcher.release(batch, 1000.0)
    assert ran == list(range(len(rows)))


def test_a_request_larger_than_the_queue_is_refused_although_nobody_waits() -> None:
    """A run cannot be stopped: 200,000 rows in one request once kept every other caller waiting for half a minute."""
    batcher: Batcher[str] = Batcher(BatchLimits(max_rows=4, queue_rows=8))
    with pytest.raises(TooLargeError, match="100 rows"):
        batcher.offer(Job("large", 100, "lane", 0.0))
    batcher.offer(Job("fits", 8, "lane", 0.0))
    batch = batcher.take(0.0)
    assert batch is not None
    assert [job.payload for job in batch.jobs] == ["fits"]


def test_a_second_run_starts_beside_the_first_once_its_oldest_row_has_waited() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_rows=32, window=0.010, parallel_runs=2))
    batcher.offer(Job("first", 1, "lane", arrived=0.0))
    assert batcher.take(0.0) is not None
    batcher.offer(Job("second", 1, "lane", arrived=0.002))
    batcher.offer(Job("third", 1, "lane", arrived=0.009))
    assert batcher.take(0.011) is None
    assert batcher.next_look() == pytest.approx(0.012)
    batch = batcher.take(0.012)
    assert batch is not None
    assert [job.payload for job in batch.jobs] == ["second", "third"]


def drained(batcher: Batcher[str], now: float) -> list[list[str]]:
    """Every batch, run one after the other."""
    batches = []
    while (batch := batcher.take(now)) is not None:
        batches.append([job.payload for job in batch.jobs])
        batcher.release(batch, now)
    return batches


def test_the_highest_priority_goes_first_and_0_is_the_default() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_rows=2, default_priority=5))
    for number, priority in enumerate((9, 0, 5, 1, 4)):
        batcher.offer(Job(f"level {priority}", 1, "lane", arrived=number / 1000, priority=priority))
    assert drained(batcher, 1.0) == [["level 1", "level 4"], ["level 0", "level 5"], ["level 9"]]


def test_lanes_take_turns_by_their_first_requests() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits())
    batcher.offer(Job("early", 1, "a", arrived=0.0))
    batcher.offer(Job("late and high", 1, "b", arrived=0.1, priority=1))
    assert drained(batcher, 1.0) == [["late and high"], ["early"]]


@given(st.lists(st.tuples(st.integers(1, LEVELS), st.integers(0, 20)), min_size=1, max_size=60), st.integers(1, 4))
def test_nobody_is_overtaken_by_who_comes_later_than_the_levels_between_them_are_worth(
    asked: list[tuple[int, int]], max_rows: int
) -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_rows=max_rows, ageing=1.0))
    jobs = {}
    for number, (priority, arrived) in enumerate(sorted(asked, key=lambda one: one[1])):
        jobs[str(number)] = Job(str(number), 1, "lane", arrived, priority=priority)
        batcher.offer(jobs[str(number)])
    order = [jobs[name] for batch in drained(batcher, 100.0) for name in batch]
    for place, job in enumerate(order):
        for earlier in order[:place]:
            assert earlier.arrived <= job.arrived + (job.priority - earlier.priority) * 1.0


def test_the_lowest_priority_runs_although_higher_ones_never_cease() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_rows=1, ageing=1.0))
    batcher.offer(Job("low", 1, "lane", arrived=0.0, priority=LEVELS))
    now = 0.0
    for step in range(200):  # one every 100 ms, as many as the session runs
        now = step / 10
        batcher.offer(Job("high", 1, "lane", arrived=now, priority=1))
        batch = batcher.take(now)
        assert batch is not None
        batcher.release(batch, now)
        if batch.jobs[0].payload == "low":
            break
    assert now == pytest.approx((LEVELS - 1) * 1.0, abs=0.2)


@pytest.mark.parametrize("priority", [-1, LEVELS + 1, 10**9])
def test_a_priority_that_does_not_exist_is_refused(priority: int) -> None:
    batcher: Batcher[str] = Batcher(BatchLimits())
    with pytest.raises(RequestError, match="from 1, the highest, to 10"):
        batcher.offer(Job("odd", 1, "lane", 0.0, priority=priority))
    assert batcher.queued == 0


def test_late_requests_before_one_with_lengths_are_handed_back_with_its_batch() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(queue_rows=10_000))
    for _ in range(300):  # more than are looked at for neighbours
        batcher.offer(Job("late", 1, "lane", arrived=0.0, deadline=1.0, lengths=(3,)))
    batcher.offer(Job("in time", 1, "lane", arrived=0.5, lengths=(3,)))
    batch = batcher.take(2.0)
    assert batch is not None
    assert [job.payload for job in batch.jobs] == ["in time"]
    assert len(batch.late) == 300


def test_a_request_that_shares_no_run_is_never_held_back() -> None:
    durations = Durations()
    for cost in (1, 32):
        durations.learn(cost, 0.020)
    batcher: Batcher[str] = Batcher(BatchLimits(adaptive=True), durations)
    for turn in range(30):
        now = turn * 0.021
        for _ in range(3):
            batcher.offer(Job("alone", 1, None, now))
        batch = batcher.take(now)
        assert batch is not None
        assert len(batch.jobs) == 1
        batcher.release(batch, now + 0.020)
        batcher.clear()
