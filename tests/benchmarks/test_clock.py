"""The clock inside the server that is measured: whose time counts for what."""

import asyncio
import importlib
import sys
import threading
from pathlib import Path
from time import thread_time
from types import ModuleType

import pytest
from benchmarks.serving import clock
from benchmarks.serving.clock import Stage, install, read


def work(seconds: float) -> None:
    end = thread_time() + seconds
    while thread_time() < end:
        pass


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module whose functions are to be measured."""
    module = ModuleType("measured")

    def inner() -> None:
        work(0.02)

    def outer() -> str:
        work(0.01)
        module.inner()
        return "done"

    async def waits(other: "asyncio.Event") -> str:
        work(0.01)
        try:
            await other.wait()
        except asyncio.CancelledError:
            module.inner()
            raise
        module.inner()
        return "done"

    module.inner, module.outer, module.waits = inner, outer, waits  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "measured", module)
    return module


def test_a_stage_counts_without_the_stages_inside_it(stages: ModuleType, tmp_path: Path) -> None:
    install(tmp_path / "clock", [Stage("in", "loop", ("measured:inner",)), Stage("out", "loop", ("measured:outer",))])
    before = thread_time()
    assert stages.outer() == "done"
    whole = thread_time() - before
    inner, outer = read(tmp_path / "clock").sum(axis=0)
    assert inner >= 0.02
    assert outer >= 0.01
    assert inner + outer <= whole
    assert outer < inner + 0.01  # and not the 0.03 that it lasted


def test_waiting_does_not_count_and_other_tasks_do_not_either(stages: ModuleType, tmp_path: Path) -> None:
    install(tmp_path / "clock", [Stage("in", "loop", ("measured:inner",)), Stage("wait", "loop", ("measured:waits",))])

    async def two() -> list[str]:
        event = asyncio.Event()
        tasks = [asyncio.create_task(stages.waits(event)) for _ in range(2)]
        await asyncio.sleep(0)
        work(0.1)  # in the loop's thread, but not in a stage
        event.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(two()) == ["done", "done"]
    inner, waits = read(tmp_path / "clock").sum(axis=0)
    assert 0.04 <= inner < 0.1
    assert 0.02 <= waits < 0.1


def test_cancellation_reaches_the_coroutine(stages: ModuleType, tmp_path: Path) -> None:
    install(tmp_path / "clock", [Stage("in", "loop", ("measured:inner",)), Stage("wait", "loop", ("measured:waits",))])

    async def cancelled() -> None:
        task = asyncio.create_task(stages.waits(asyncio.Event()))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert read(tmp_path / "clock")[0, 0] >= 0.02


def test_threads_do_not_mix(stages: ModuleType, tmp_path: Path) -> None:
    install(tmp_path / "clock", [Stage("in", "run", ("measured:inner",)), Stage("out", "loop", ("measured:outer",))])
    stages.inner, original = lambda: None, stages.inner
    other = threading.Thread(target=original)
    other.start()
    stages.outer()
    other.join()
    (_, outer), (inner, _) = read(tmp_path / "clock")
    assert 0.02 <= inner < 0.04
    assert 0.01 <= outer < 0.02


def test_a_stage_whose_function_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="gone"):
        install(tmp_path / "clock", [Stage("x", "loop", ("headway.serve.rest:Rest.gone",))])


def test_every_stage_of_the_profile_is_there() -> None:
    """Renaming a function on the request path must not leave the profile behind."""
    for stage in clock.STAGES:
        for function in stage.functions:
            module, _, attribute = function.partition(":")
            owner = importlib.import_module(module)
            for part in attribute.split("."):
                owner = getattr(owner, part)
            assert callable(owner)
