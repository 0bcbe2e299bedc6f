"""Every accepted request gets exactly one answer, whatever the session, the callers and the clock do."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core.errors import HeadwayError, RequestError
from headway.core.tensors import Array, TensorSpec
from headway.serve.batcher import BatchLimits
from headway.serve.durations import Durations
from headway.serve.errors import DeadlineError, FullError, InferenceError, UnavailableError
from headway.serve.runner import Runner
from headway.serve.signature import Checked

POISON, WRONG_ROWS, NO_OUTPUT, REFUSED = -1.0, -2.0, -3.0, -4.0


class Doubler:
    """A session that doubles its input, waits at a gate, and misbehaves on the values named above."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),)
    outputs = (TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),)
    thread_safe = True

    def __init__(self, *, gate_open: bool = True) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        if gate_open:
            self.gate.set()
        self.runs: list[list[float]] = []
        self.closed = False

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        value = inputs["x"]
        self.runs.append(value[:, 0].tolist())
        self.entered.release()
        assert self.gate.wait(20)
        if POISON in value:
            raise MemoryError("poisoned")
        if REFUSED in value:
            raise RequestError("the model refuses it")
        if WRONG_ROWS in value:
            return {"y": value[:-1]}
        if NO_OUTPUT in value:
            return {}
        return {"y": value * 2}

    def close(self) -> None:
        self.closed = True


class Seen:
    """Remembers what the runner reports."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.waits = 0

    def batch_ran(self, *, rows: int, waited: Sequence[float], seconds: float) -> None:
        assert seconds >= 0
        assert all(wait >= 0 for wait in waited)
        self.rows.append(rows)
        self.waits += len(waited)


def checked(*values: float) -> Checked:
    return Checked({"x": np.array(values, np.float32).reshape(-1, 1)}, len(values), ())


def serve(
    session: Doubler,
    body: Callable[[Runner, Seen], Coroutine[Any, Any, None]],
    durations: Durations | None = None,
    **limits: Any,
) -> None:
    """Run `body` with a runner in a loop of its own, and close the runner."""

    async def main() -> None:
        seen = Seen()
        runner = Runner(
            session, BatchLimits(**limits), whole_rows=True, watcher=seen, name="doubler", durations=durations
        )
        try:
            await body(runner, seen)
        finally:
            session.gate.set()
            await runner.close(5)
        assert session.closed

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())


def known(*, fixed: float) -> Durations:
    """Runs take so many seconds, and hardly more for more rows."""
    durations = Durations()
    for rows in (1, 32):
        durations.learn(rows, fixed + rows * 1e-7)
    return durations


async def held_run(runner: Runner, session: Doubler) -> "asyncio.Task[dict[str, Array]]":
    """A request whose run has begun and waits at the gate."""
    first = asyncio.create_task(runner.infer(checked(1000), 20))
    await asyncio.to_thread(session.entered.acquire)
    return first


def test_requests_that_come_while_a_run_is_under_way_share_the_next() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        others = [asyncio.create_task(runner.infer(checked(*range(n)), 20)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        assert runner.queued_rows == 6
        session.gate.set()
        assert (await first)["y"].tolist() == [[2000]]
        for n, other in zip((1, 2, 3), others, strict=True):
            assert (await other)["y"].ravel().tolist() == [2 * value for value in range(n)]
        await asyncio.sleep(0)
        assert seen.rows == [1, 6]
        assert seen.waits == 4

    serve(session, body)
    assert len(session.runs) == 2


def test_requests_of_one_turn_of_the_loop_share_the_first_run() -> None:
    session = Doubler()

    async def body(runner: Runner, seen: Seen) -> None:
        await asyncio.gather(*(runner.infer(checked(n), 20) for n in range(5)))

    serve(session, body)
    assert session.runs == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("bad", "error"),
    [(POISON, InferenceError), (WRONG_ROWS, InferenceError), (NO_OUTPUT, InferenceError), (REFUSED, RequestError)],
)
def test_only_the_guilty_request_of_a_batch_fails(bad: float, error: type[HeadwayError]) -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        mates = [asyncio.create_task(runner.infer(checked(value), 20)) for value in (1.0, bad, 3.0)]
        await asyncio.sleep(0)
        session.gate.set()
        await first
        outcomes = await asyncio.gather(*mates, return_exceptions=True)
        assert isinstance(outcomes[1], error)
        assert [outcomes[i]["y"].item() for i in (0, 2)] == [2, 6]
        assert (await runner.infer(checked(5), 20))["y"].item() == 10

    serve(session, body)


def test_a_caller_that_leaves_takes_its_queued_work_along_and_nobody_elses() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        leaving = asyncio.create_task(runner.infer(checked(7), 20))
        staying = asyncio.create_task(runner.infer(checked(8), 20))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        assert runner.queued_rows == 1
        first.cancel()  # it runs already: its run goes on, its answer goes nowhere
        session.gate.set()
        assert (await staying)["y"].item() == 16

    serve(session, body)
    assert session.runs == [[1000], [8]]


def test_a_deadline_ends_a_request_that_waits_and_one_that_runs() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        running = asyncio.create_task(runner.infer(checked(1), 0.05))
        await asyncio.to_thread(session.entered.acquire)
        with pytest.raises(DeadlineError):
            await runner.infer(checked(2), 0.01)
        with pytest.raises(DeadlineError):
            await running
        session.gate.set()
        assert (await runner.infer(checked(3), 20))["y"].item() == 6

    serve(session, body)
    assert session.runs == [[1], [3]]


def test_a_full_queue_refuses_at_once() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        waiting = [asyncio.create_task(runner.infer(checked(n), 20)) for n in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await runner.infer(checked(9), 20)
        session.gate.set()
        await asyncio.gather(first, *waiting)

    serve(session, body, queue_rows=4)


def test_closing_answers_what_was_accepted_and_refuses_what_comes_then() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        waiting = asyncio.create_task(runner.infer(checked(4), 20))
        await asyncio.sleep(0)
        closing = asyncio.create_task(runner.close(20))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await runner.infer(checked(5), 20)
        session.gate.set()
        assert (await first)["y"].item() == 2000
        assert (await waiting)["y"].item() == 8
        await closing

    serve(session, body)


def test_closing_refuses_what_does_not_finish_in_time() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        waiting = asyncio.create_task(runner.infer(checked(4), 20))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.1, session.gate.set)
        await runner.close(0.01)
        for task in (first, waiting):
            with pytest.raises(UnavailableError, match="shut down"):
                await task

    serve(session, body)
    assert session.runs == [[1000]]


def test_a_further_run_starts_beside_one_under_way_after_the_window() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        second = asyncio.create_task(runner.infer(checked(2), 20))
        await asyncio.to_thread(session.entered.acquire)  # begun although the first is not done
        session.gate.set()
        await asyncio.gather(first, second)

    serve(session, body, parallel_runs=2, window=0.005)


VALUES = st.sampled_from([1.0, 2.0, 3.0, POISON, WRONG_ROWS, REFUSED])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(VALUES, min_size=1, max_size=5), st.booleans(), st.integers(0, 10)), min_size=1, max_size=30
    ),
    st.integers(1, 8),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 2**16),
)
def test_exactly_one_answer_each_under_cancel_failure_and_load(
    requests: list[tuple[list[float], bool, int]], max_rows: int, runs: int, adaptive: bool, brief: float, seed: int
) -> None:
    chance = random.Random(seed)
    answers: Counter[int] = Counter()

    async def call(runner: Runner, number: int, values: list[float], priority: int) -> None:
        await asyncio.sleep(chance.random() / 500)
        bad = any(value < 0 for value in values)
        try:
            outputs = await runner.infer(checked(*values), 20, priority)
            assert not bad
            assert outputs["y"].ravel().tolist() == [2 * value for value in values]
        except (InferenceError, RequestError):
            assert bad, "an innocent request failed"
        answers[number] += 1

    async def body(runner: Runner, seen: Seen) -> None:
        tasks = [asyncio.create_task(call(runner, n, values, level)) for n, (values, _, level) in enumerate(requests)]
        await asyncio.sleep(0.001)
        for task, (_, leaves, _) in zip(tasks, requests, strict=True):
            if leaves:
                task.cancel()
        await asyncio.wait(tasks, timeout=20)
        assert all(task.done() for task in tasks), "a request was never answered"
        for number, task in enumerate(tasks):
            assert task.cancelled() or task.exception() is None
            assert answers[number] == (0 if task.cancelled() else 1)
        assert runner.queued_rows == 0

    limits = {"max_rows": max_rows, "parallel_runs": runs, "window": 0.0005, "adaptive": adaptive, "brief": brief}
    serve(Doubler(), body, known(fixed=0.0001), **limits)


@pytest.mark.parametrize(
    ("fixed", "together", "shape", "in_the_loop"),
    [(0.0001, 1, (-1, 1), True), (0.01, 1, (-1, 1), False), (0.0001, 2, (-1, 1), False), (0.0001, 1, (-1, -1), False)],
    ids=["brief", "long", "shared", "of unknown length"],
)
def test_a_lone_brief_run_stays_in_the_loop(
    fixed: float, together: int, shape: tuple[int, int], in_the_loop: bool
) -> None:
    threads = []

    class Noting(Doubler):
        inputs = (TensorSpec(name="x", datatype="FP32", shape=shape),)

        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            threads.append(threading.current_thread())
            return super().run(inputs)

    async def body(runner: Runner, seen: Seen) -> None:
        await asyncio.gather(*(runner.infer(checked(n + 1), 20) for n in range(together)))
        assert [thread is threading.current_thread() for thread in threads] == [in_the_loop]
        with pytest.raises(InferenceError):  # and where it fails, it fails alone
            await runner.infer(checked(POISON), 20)
        assert (await runner.infer(checked(7), 20))["y"] == [[14]]

    serve(Noting(), body, known(fixed=fixed), brief=0.001)


def test_the_highest_priority_is_answered_first() -> None:
    session = Doubler(gate_open=False)

    async def body(runner: Runner, seen: Seen) -> None:
        first = await held_run(runner, session)
        levels = (0, 10, 3, 1)
        waiting = [asyncio.create_task(runner.infer(checked(level), 20, level)) for level in levels]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="priority"):
            await runner.infer(checked(11), 20, 11)
        session.gate.set()
        await asyncio.gather(first, *waiting)

    serve(session, body, max_rows=1)
    assert session.runs == [[1000], [1], [3], [0], [10]]


class Costly(Doubler):
    """A session whose runs take 20 ms, whatever their rows."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        time.sleep(0.020)
        return super().run(inputs)


def costly_runs(*, adaptive: bool) -> int:
    """The runs for 4 callers of 20 requests each; the first caller vanishes halfway, in the middle of one."""
    session = Costly()
    durations = Durations()
    for rows in (1, 32):
        durations.learn(rows, 0.020)

    async def body(runner: Runner, seen: Seen) -> None:
        async def caller(number: int) -> None:
            for turn in range(20):
                if number == 0 and turn == 10:
                    asyncio.get_running_loop().call_soon(tasks[0].cancel)
                assert (await runner.infer(checked(turn), 20))["y"].item() == 2 * turn

        tasks = [asyncio.create_task(caller(number)) for number in range(2)]
        await asyncio.to_thread(session.entered.acquire)  # the other half comes while the first runs
        tasks += [asyncio.create_task(caller(number)) for number in (2, 3)]
        vanished, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(vanished, asyncio.CancelledError)
        assert others == [None] * 3
        assert runner.queued_rows == 0

    serve(session, body, durations, adaptive=adaptive)
    return len(session.runs)


def test_callers_who_ask_again_are_gathered_and_one_who_vanished_keeps_nobody_waiting() -> None:
    assert costly_runs(adaptive=True) < 0.8 * costly_runs(adaptive=False)
