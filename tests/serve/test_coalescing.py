"""Identical requests share a run, and whatever one caller does is nothing to the others: in simulated time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.serve.coalescing import Flights
from headway.serve.errors import DeadlineError, FullError, InferenceError, UnavailableError

KEY = b"key"


class _Hurried(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Waits for nothing: the clock is put forward by as long as the loop wanted to wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        assert found or timeout is not None, "everybody waits for something that never comes"
        if not found and timeout:
            self.now += timeout
        return found


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._hurried = _Hurried()
        super().__init__(self._hurried)

    def time(self) -> float:
        return self._hurried.now


def simulate(body: Callable[[Flights[str]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        flights: Flights[str] = Flights(lambda _key, result: result)
        await body(flights)
        assert not len(flights)

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(main())


@dataclass
class Work:
    """Takes `seconds`; what it does is on record."""

    seconds: float = 1.0
    fails: Exception | None = None
    begun: list[float] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)

    async def __call__(self, timeout_s: float, priority: int) -> str:
        loop = asyncio.get_running_loop()
        self.begun.append(loop.time())
        self.timeouts.append(timeout_s)
        self.priorities.append(priority)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.dropped.append(loop.time())
            raise
        if self.fails:
            raise self.fails
        return f"run {len(self.begun)}"


def caller(flights: Flights[str], work: Work, *, patience: float = 30.0, priority: int = 0) -> "asyncio.Task[str]":
    deadline = asyncio.get_running_loop().time() + patience
    return asyncio.create_task(flights.join(KEY, work, deadline, priority))


def test_those_who_come_meanwhile_join_and_those_who_come_after_do_not() -> None:
    async def body(flights: Flights[str]) -> None:
        work = Work()
        first = caller(flights, work)
        await asyncio.sleep(0.5)
        assert KEY in flights
        others = [caller(flights, work) for _ in range(3)]
        assert await asyncio.gather(first, *others) == ["run 1"] * 4
        assert KEY not in flights
        assert await caller(flights, work) == "run 2"
        assert work.begun == [0, 1]

    simulate(body)


def test_the_first_may_leave_or_run_out_of_time_and_the_others_get_their_answer() -> None:
    async def body(flights: Flights[str]) -> None:
        for patience in (30.0, 0.25):
            work = Work()
            first = caller(flights, work, patience=patience)
            other = caller(flights, work)
            await asyncio.sleep(0.3)
            first.cancel()
            with pytest.raises(DeadlineError if patience < 0.3 else asyncio.CancelledError):
                await first
            assert await other == "run 1"
            assert not work.dropped

    simulate(body)


def test_when_everybody_has_left_the_work_is_dropped_and_nobody_joins_it() -> None:
    async def body(flights: Flights[str]) -> None:
        work = Work()
        gone = [caller(flights, work), caller(flights, work, patience=0.5)]
        await asyncio.sleep(0.75)
        gone[0].cancel()
        await asyncio.wait(gone)
        assert await caller(flights, work) == "run 2"
        assert work.dropped == [0.75]
        assert work.begun == [0, 0.75]

    simulate(body)


def test_a_caller_whose_deadline_has_passed_begins_nothing() -> None:
    async def body(flights: Flights[str]) -> None:
        work = Work()
        with pytest.raises(DeadlineError):
            await caller(flights, work, patience=0)
        await asyncio.sleep(1)
        assert not work.begun

    simulate(body)


def test_the_run_has_no_deadline_of_its_own() -> None:
    async def body(flights: Flights[str]) -> None:
        work = Work(seconds=100)
        hurried = caller(flights, work, patience=0.1)
        patient = caller(flights, work, patience=101)
        with pytest.raises(DeadlineError):
            await hurried
        assert await patient == "run 1"
        assert work.timeouts[0] > 1000

    simulate(body)


def test_a_failure_is_each_callers_own_and_is_not_remembered() -> None:
    async def body(flights: Flights[str]) -> None:
        cause = ValueError("inside")
        failure = InferenceError("broken", where="here", remedy="Mend it.")
        failure.__cause__ = cause
        work = Work(fails=failure)
        outcomes = await asyncio.gather(*(caller(flights, work) for _ in range(3)), return_exceptions=True)
        assert len({id(outcome) for outcome in outcomes} | {id(failure)}) == 4
        for outcome in outcomes:
            assert isinstance(outcome, InferenceError)
            assert (outcome.message, outcome.where, outcome.remedy) == ("broken", "here", "Mend it.")
            assert outcome.__cause__ is cause
        assert failure.__traceback__ is not outcomes[0].__traceback__
        work.fails = None
        assert await caller(flights, work) == "run 2"

    simulate(body)


def test_a_failure_that_cannot_be_copied_still_reaches_everybody() -> None:
    class Awkward(Exception):  # noqa: N818
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one + two)

    async def body(flights: Flights[str]) -> None:
        work = Work(fails=Awkward(1, 2))
        outcomes = await asyncio.gather(*(caller(flights, work) for _ in range(2)), return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, InferenceError)
            assert isinstance(outcome.__cause__, Awkward)

    simulate(body)


def test_an_answer_that_cannot_be_shared_is_a_failure_of_the_run() -> None:
    def refuse(_key: bytes, _result: str) -> str:
        raise MemoryError

    async def main() -> None:
        flights: Flights[str] = Flights(refuse)
        with pytest.raises(MemoryError):
            await flights.join(KEY, Work(), 30, 0)
        assert not len(flights)

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(main())


def test_a_run_that_is_cancelled_from_outside_answers_its_callers() -> None:
    async def cancelled(_timeout_s: float, _priority: int) -> str:
        raise asyncio.CancelledError

    async def body(flights: Flights[str]) -> None:
        with pytest.raises(UnavailableError):
            await flights.join(KEY, cancelled, 30, 0)

    simulate(body)


class Desk:
    """Serves one piece of work at a time, the most urgent first, as a batcher with priorities would."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self.busy = False
        self.served: list[int] = []
        self.refuses = False

    async def __call__(self, _timeout_s: float, priority: int) -> str:
        if self.refuses:
            raise FullError("full")
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append((priority or 10**9, len(self.waiting), turn))
        self._next()
        await turn
        self.served.append(priority)
        try:
            await asyncio.sleep(1)
        finally:
            self.busy = False
            self._next()
        return f"at priority {priority}"

    def _next(self) -> None:
        self.waiting = sorted(one for one in self.waiting if not one[2].done())
        if self.waiting and not self.busy:
            self.busy = True
            self.waiting.pop(0)[2].set_result(None)


def test_a_caller_of_higher_priority_takes_the_run_along_to_its_place_in_the_queue() -> None:
    async def body(flights: Flights[str]) -> None:
        desk = Desk()
        others = [asyncio.create_task(desk(30, 2)) for _ in range(3)]
        await asyncio.sleep(0.1)
        low = asyncio.create_task(flights.join(KEY, desk, 30, 0))
        await asyncio.sleep(0.1)
        high = asyncio.create_task(flights.join(KEY, desk, 30, 1))
        late = asyncio.create_task(flights.join(KEY, desk, 30, 2))
        assert await asyncio.gather(low, high, late) == ["at priority 1"] * 3
        assert asyncio.get_running_loop().time() == pytest.approx(2)
        await asyncio.gather(*others)
        await asyncio.sleep(5)
        assert desk.served == [2, 1, 2, 2]  # and the run at priority 0 was dropped before it began

    simulate(body)


def test_a_second_run_that_is_refused_does_not_fail_those_who_wait_for_the_first() -> None:
    async def body(flights: Flights[str]) -> None:
        desk = Desk()
        low = asyncio.create_task(flights.join(KEY, desk, 30, 0))
        await asyncio.sleep(0.1)
        desk.refuses = True
        high = asyncio.create_task(flights.join(KEY, desk, 30, 1))
        assert await asyncio.gather(low, high) == ["at priority 0"] * 2

    simulate(body)


# Any history

TIMES = st.integers(0, 40).map(lambda tenths: tenths / 10)


@dataclass(frozen=True)
class Call:
    arrives: float
    key: bytes
    patience: float
    leaves_after: float | None


CALLS = st.lists(
    st.builds(
        Call,
        arrives=TIMES,
        key=st.sampled_from([b"a", b"b"]),
        patience=st.integers(1, 30).map(lambda tenths: tenths / 10 + 0.03),
        leaves_after=st.none() | st.integers(0, 30).map(lambda tenths: tenths / 10 + 0.05),
    ),
    min_size=1,
    max_size=25,
)


@dataclass
class Run:
    key: bytes
    began: float
    ended: float = -1.0
    how: str = "under way"


Outcome = tuple[str, float, Run | None]


@settings(max_examples=300, deadline=None)
@given(CALLS, st.lists(st.tuples(st.integers(1, 25), st.booleans()), min_size=1, max_size=5))
def test_exactly_one_right_answer_each_under_any_history(calls: list[Call], kinds: list[tuple[int, bool]]) -> None:
    runs: list[Run] = []

    async def main() -> list[Outcome]:
        flights: Flights[Run] = Flights(lambda _key, result: result)
        outcomes = await asyncio.gather(*(one_call(flights, call, runs, kinds) for call in calls))
        await asyncio.sleep(0)
        assert not len(flights)
        return outcomes

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        outcomes = runner.run(main())
    for call, outcome in zip(calls, outcomes, strict=True):
        check_call(call, outcome, [run for run in runs if run.key == call.key])
    for key in (b"a", b"b"):
        stays = [(call.arrives, when) for call, (_, when, _) in zip(calls, outcomes, strict=True) if call.key == key]
        check_runs([run for run in runs if run.key == key], stays)


async def one_call(flights: Flights[Run], call: Call, runs: list[Run], kinds: list[tuple[int, bool]]) -> Outcome:
    async def compute(_timeout_s: float, _priority: int) -> Run:
        tenths, succeeds = kinds[len(runs) % len(kinds)]
        run = Run(call.key, loop.time())
        runs.append(run)
        try:
            await asyncio.sleep(tenths / 10 + 0.01)
            run.how = "succeeded" if succeeds else "failed"
        except asyncio.CancelledError:
            run.how = "dropped"
            raise
        finally:
            run.ended = loop.time()
        if not succeeds:
            raise InferenceError("failed")
        return run

    loop = asyncio.get_running_loop()
    await asyncio.sleep(call.arrives)
    task = asyncio.create_task(flights.join(call.key, compute, loop.time() + call.patience, 0))
    if call.leaves_after is not None:
        loop.call_later(call.leaves_after, task.cancel)
    try:
        run = await task
    except DeadlineError:
        return "late", loop.time(), None
    except InferenceError:
        return "failed", loop.time(), None
    except asyncio.CancelledError:
        return "left", loop.time(), None
    return "answered", loop.time(), run


def check_call(call: Call, outcome: Outcome, runs: list[Run]) -> None:
    """One outcome, of a run that this caller waited for, no later than it was willing to wait."""
    how, when, run = outcome
    if how == "answered":
        assert run in runs
        assert run.how == "succeeded"
        assert call.arrives <= run.ended == pytest.approx(when)
        assert when <= call.arrives + call.patience + 1e-9
    elif how == "failed":
        assert any(one.how == "failed" and one.ended == pytest.approx(when) for one in runs)
    else:
        stayed = call.patience if how == "late" else call.leaves_after
        assert stayed is not None
        assert when == pytest.approx(call.arrives + stayed)
        assert not any(call.arrives < one.ended < when - 1e-9 and one.how != "dropped" for one in runs)


def check_runs(runs: list[Run], stays: list[tuple[float, float]]) -> None:
    """One run at a time, each for as long as somebody waits for it and no longer."""
    for one, other in pairwise(runs):
        assert one.ended <= other.began + 1e-9
    for run in runs:
        assert run.how != "under way"
        assert any(left == pytest.approx(run.ended) for _, left in stays)
        if run.how == "dropped":
            assert not any(came < run.ended - 1e-9 and left > run.ended + 1e-9 for came, left in stays)
