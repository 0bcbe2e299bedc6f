"""The rules of batching, held against any history of arrivals, cancellations, runs and time."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headway.serve.batcher import Batch, Batcher, BatchLimits, Job
from headway.serve.errors import FullError, TooLargeError

SETTINGS = settings(max_examples=150, stateful_step_count=40, deadline=None)


class History(RuleBasedStateMachine):
    """Drives a batcher with a clock of its own and remembers what became of every request."""

    @initialize(
        max_rows=st.integers(1, 8),
        queue_rows=st.integers(1, 20),
        runs=st.integers(1, 3),
        window=st.sampled_from([0, 5]),
    )
    def begin(self, max_rows: int, queue_rows: int, runs: int, window: int) -> None:
        self.limits = BatchLimits(max_rows, window, queue_rows, runs)
        self.batcher: Batcher[int] = Batcher(self.limits)
        self.now = 0.0
        self.queued: dict[int, Job[int]] = {}
        self.running: list[Batch[int]] = []
        self.ends: Counter[int] = Counter()
        self.accepted: set[int] = set()
        self.serial = 0

    @rule(rows=st.integers(1, 12), lane=st.sampled_from(["a", "b", None]), patience=st.sampled_from([1, 7, 1000]))
    def arrives(self, rows: int, lane: str | None, patience: int) -> None:
        waiting = sum(job.rows for job in self.queued.values())
        job = Job(self.serial, rows, lane, self.now, self.now + patience)
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

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

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
        assert busy, "an idle session lets a request wait"
        oldest = min(job.arrived for job in self.queued.values())
        assert self.now < oldest + self.limits.window, "the oldest row has waited for longer than the window"
        assert self.batcher.next_look() == oldest + self.limits.window

    def _check_batch(self, jobs: Sequence[Job[int]], busy: int, before: dict[int, Job[int]]) -> None:
        rows = sum(job.rows for job in jobs)
        assert busy < self.limits.parallel_runs
        assert rows <= self.limits.max_rows or len(jobs) == 1, "more rows than a batch may have"
        assert all(job.deadline > self.now for job in jobs), "a request ran past its deadline"
        assert len({job.lane for job in jobs}) == 1
        assert len(jobs) == 1 or jobs[0].lane is not None, "a request that shares no run shared one"
        mates = [job for job in before.values() if job.lane == jobs[0].lane and job.lane is not None]
        assert not mates or [job for job in mates if job.deadline > self.now][: len(jobs)] == list(jobs), "overtaken"
        if busy:
            lane_rows = sum(job.rows for job in mates) or jobs[0].rows
            oldest = min(job.arrived for job in before.values())
            assert lane_rows >= self.limits.max_rows or self.now >= oldest + self.limits.window, "started too early"
        else:
            assert self.queued_rows_left_fit_no_more(jobs, rows), "the batch is not as full as it could be"

    def queued_rows_left_fit_no_more(self, jobs: Sequence[Job[int]], rows: int) -> bool:
        left = [j for j in self.queued.values() if j.lane == jobs[0].lane and j.lane is not None]
        return not left or rows + left[0].rows > self.limits.max_rows

    @precondition(lambda self: bool(self.running))
    @rule(which=st.integers(0, 5))
    def run_ends(self, which: int) -> None:
        batch = self.running.pop(which % len(self.running))
        self.batcher.release()
        self.ends.update(job.payload for job in batch.jobs)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "batcher"):
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
        batcher.release()
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
