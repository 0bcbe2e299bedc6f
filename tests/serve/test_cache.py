"""Shared answers around a real runner and its threads: right, read-only, per tenant, and gone when they should be."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest
import uvloop

from headway.core.tensors import Array, TensorSpec
from headway.observe.cache_counts import CacheCounts
from headway.observe.metrics import ModelMetrics
from headway.serve.batcher import BatchLimits
from headway.serve.cache import AnswerCache
from headway.serve.cache_key import Keys
from headway.serve.cache_store import AnswerStore
from headway.serve.cache_worth import Worth
from headway.serve.errors import DeadlineError, InferenceError
from headway.serve.runner import Runner
from headway.serve.signature import Checked

BAD = -1.0


class Doubler:
    """Doubles its input, waits at a gate, and remembers which values it was asked for."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),)
    outputs = (TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),)
    thread_safe = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.asked: list[float] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        value = inputs["x"]
        self.asked += value[:, 0].tolist()
        self.entered.release()
        assert self.gate.wait(20)
        if BAD in value:
            raise ArithmeticError("no")
        return {"y": value * 2}

    def close(self) -> None:
        pass


class Model:
    """A cache around a runner, as `ServedModel` has it."""

    def __init__(self, session: Doubler, store: AnswerStore, *parts: str, worth: Worth | None = None) -> None:
        metrics = ModelMetrics()
        self.runner = Runner(
            session, BatchLimits(queue_rows=1_000_000), whole_rows=True, watcher=metrics, name="doubler"
        )
        self.counts = CacheCounts()
        worth = worth or Worth(metrics.compute, budget_s=1e9)
        self.cache = AnswerCache(store, Keys(*parts), worth, self.counts, "doubler")

    async def ask(self, *values: float, tenant: str = "", timeout_s: float = 20, priority: int = 0) -> Array:
        checked = Checked({"x": np.array(values, np.float32).reshape(-1, 1)}, len(values), ())
        compute = lambda seconds, _priority: self.runner.infer(checked, seconds)  # noqa: E731
        outputs = await self.cache.get_or_run(checked.inputs, tenant, compute, timeout_s, priority)
        return outputs["y"]


def serve(body: Callable[[Model, Doubler], Coroutine[Any, Any, None]], **more: Any) -> None:
    async def main() -> None:
        session = Doubler()
        model = Model(session, AnswerStore(1_000_000), "doubler", **more)
        try:
            await body(model, session)
        finally:
            session.gate.set()
            await model.runner.close(5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())


async def held(model: Model, session: Doubler) -> "asyncio.Task[Array]":
    """A request for something else, whose run has begun and waits at the gate."""
    session.gate.clear()
    task = asyncio.create_task(model.ask(1000))
    await asyncio.to_thread(session.entered.acquire)
    return task


def test_what_was_answered_is_not_run_again() -> None:
    async def body(model: Model, session: Doubler) -> None:
        for _ in range(3):
            assert (await model.ask(1, 2)).ravel().tolist() == [2, 4]
        assert (await model.ask(1)).ravel().tolist() == [2]
        assert (await model.ask(2, 1)).ravel().tolist() == [4, 2]
        assert session.asked == [1, 2, 1, 2, 1]
        assert (model.counts.hits, model.counts.misses, model.counts.coalesced) == (2, 3, 0)
        assert (model.counts.entries, model.counts.on) == (3, True)

    serve(body)


def test_identical_requests_in_flight_run_once() -> None:
    async def body(model: Model, session: Doubler) -> None:
        first = await held(model, session)
        same = [asyncio.create_task(model.ask(7)) for _ in range(10)]
        await asyncio.sleep(0)
        assert model.runner.queued_rows <= 1
        session.gate.set()
        assert [(await task).item() for task in same] == [14] * 10
        await first
        assert session.asked == [1000, 7]
        assert (model.counts.misses, model.counts.coalesced, model.counts.hits) == (2, 9, 0)

    serve(body)


def test_tenants_share_neither_what_runs_nor_what_is_kept() -> None:
    async def body(model: Model, session: Doubler) -> None:
        first = await held(model, session)
        others = [asyncio.create_task(model.ask(7, tenant=tenant)) for tenant in ("", "a", "b", "a")]
        await asyncio.sleep(0)
        session.gate.set()
        assert [(await task).item() for task in (first, *others)] == [2000, 14, 14, 14, 14]
        assert session.asked == [1000, 7, 7, 7]
        assert (await model.ask(7, tenant="c")).item() == 14
        assert session.asked == [1000, 7, 7, 7, 7]
        assert (await model.ask(7, tenant="a")).item() == 14
        assert session.asked == [1000, 7, 7, 7, 7]

    serve(body)


def test_models_that_share_a_store_share_no_answer() -> None:
    async def body(model: Model, session: Doubler) -> None:
        for parts in (("other",), ("doubler", "2"), ("doub", "ler")):
            other = Model(session, model.cache._store, *parts)
            try:
                before = len(session.asked)
                await asyncio.gather(model.ask(3), other.ask(3))
                await asyncio.gather(model.ask(3), other.ask(3))
                assert len(session.asked) - before in (1, 2)
                assert other.counts.misses == 1
                assert other.counts.hits == 1
            finally:
                await other.runner.close(5)

    serve(body)


def test_work_that_everybody_left_never_runs() -> None:
    async def body(model: Model, session: Doubler) -> None:
        first = await held(model, session)
        leaving = [asyncio.create_task(model.ask(7)) for _ in range(3)]
        late = asyncio.create_task(model.ask(7, timeout_s=0.01))
        staying = asyncio.create_task(model.ask(8))
        with pytest.raises(DeadlineError):
            await late
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        await asyncio.sleep(0)
        assert model.runner.queued_rows == 1
        session.gate.set()
        assert (await staying).item() == 16
        await first
        assert session.asked == [1000, 8]

    serve(body)


def test_a_failure_is_told_to_all_and_not_kept() -> None:
    async def body(model: Model, session: Doubler) -> None:
        outcomes = await asyncio.gather(*(model.ask(BAD) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(outcome, InferenceError) for outcome in outcomes)
        assert len(set(map(id, outcomes))) == 3
        with pytest.raises(InferenceError):
            await model.ask(BAD)
        assert session.asked.count(BAD) == 2
        assert model.counts.entries == 0

    serve(body)


def test_nobody_can_change_what_others_are_given() -> None:
    async def body(model: Model, session: Doubler) -> None:
        for value in await asyncio.gather(model.ask(7), model.ask(7), model.ask(7, 8)):
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 5
        with pytest.raises(ValueError, match="read-only"):
            (await model.ask(7))[0] = 5
        large = await model.ask(*range(100_000))  # is not kept
        with pytest.raises(ValueError, match="read-only"):
            large[0] = 5
        assert model.counts.entries == 2

    serve(body)


def test_rows_of_one_run_are_kept_each_for_itself() -> None:
    async def body(model: Model, session: Doubler) -> None:
        first = await held(model, session)
        rows = [asyncio.create_task(model.ask(number)) for number in range(8)]
        await asyncio.sleep(0)
        session.gate.set()
        for row in rows:
            await row
        assert model.counts.bytes < 8 * 600
        await first

    serve(body)


def test_closing_forgets_everything_and_keeps_nothing_that_ends_later() -> None:
    async def body(model: Model, session: Doubler) -> None:
        await model.ask(1)
        first = await held(model, session)
        store = model.cache._store
        assert store.used > 0
        model.cache.close()
        assert store.used == 0
        session.gate.set()
        assert (await first).item() == 2000
        assert store.used == 0
        assert (model.counts.entries, model.counts.bytes) == (0, 0)

    serve(body)


def test_large_inputs_are_hashed_in_a_thread_and_answered_alike() -> None:
    async def body(model: Model, session: Doubler) -> None:
        many = [float(number) for number in range(100_000)]
        session.gate.clear()
        tasks = [asyncio.create_task(model.ask(*many)) for _ in range(2)]
        while not model.counts.coalesced:
            await asyncio.sleep(0.001)
        session.gate.set()
        both = await asyncio.gather(*tasks)
        assert [answer[-1].item() for answer in both] == [199_998] * 2
        assert len(session.asked) == 100_000
        with pytest.raises(DeadlineError):
            await model.ask(*many, timeout_s=-1)

    serve(body)


def test_switched_off_it_leaves_requests_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    worth = Worth(lambda: (0.0, 0))

    async def body(model: Model, session: Doubler) -> None:
        await model.ask(5)
        worth.on = False
        worth._until_sample = 10**9
        for _ in range(3):
            answer = await model.ask(5)
            answer[0] = 0  # nobody else has it
        assert session.asked == [5] * 4
        assert model.counts.passed == 3
        worth._until_sample = 0
        await model.ask(5)  # a sample
        assert session.asked == [5] * 5
        assert not model.counts.on
        worth.on = True
        await model.ask(5)
        assert session.asked == [5] * 5  # what was kept before is still there
        await model.ask(6)
        assert model.counts.on

    with caplog.at_level("INFO", logger="headway"):
        serve(body, worth=worth)
    said = [record.message for record in caplog.records]
    assert said == ["cache switched off: it does not pay", "cache switched on"]


def test_under_load_with_callers_that_vanish_everybody_else_is_answered_rightly() -> None:
    chance = random.Random(0)

    async def body(model: Model, session: Doubler) -> None:
        answered = 0

        async def one(number: int) -> None:
            nonlocal answered
            await asyncio.sleep(chance.random() / 20)
            value, tenant = float(number % 7), "ab"[number % 2]
            outputs = await model.ask(value, tenant=tenant, priority=number % 3)
            assert outputs.tolist() == [[2 * value]]
            answered += 1

        for _ in range(5):
            tasks = [asyncio.create_task(one(chance.randrange(1000))) for _ in range(300)]
            await asyncio.sleep(0.01)
            for task in chance.sample(tasks, 100):
                task.cancel()
                await asyncio.sleep(0.0002)
            await asyncio.wait(tasks, timeout=20)
            assert all(task.done() for task in tasks)
            for task in tasks:
                assert task.cancelled() or task.exception() is None
        assert answered >= 1000
        # A run for each input and tenant, two more at a higher priority; and one more where all left while it ran.
        assert len(session.asked) <= 14 * 3 + 500
        assert not len(model.cache._flights)
        assert model.runner.queued_rows == 0

    serve(body)
