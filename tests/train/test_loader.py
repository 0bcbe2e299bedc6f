"""Batches that worker processes make: the same bits, and clear words where one of them fails."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tests.train.reading import Reading, failed, loader, reading, stopped_reading, trained_reading
from tests.train.tiny import State, blocks, config

from headway.core import machine
from headway.core.errors import TaskError
from headway.tasks.factory import build_model
from headway.tasks.parts import Subset
from headway.train.loader import Loader, workers
from headway.train.loop import fit
from headway.train.plan import Plan
from headway.train.world import ALONE

Together = Callable[..., list[Any]]
_CPU = torch.device("cpu")


def _run(together: Together, processes: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """In this process, or the first one's answer of several."""
    return work(*arguments) if processes == 1 else together(processes, work, *arguments)[0]


def _equal(one: State, other: State) -> bool:
    return all(np.array_equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_are_the_same_bits_with_any_workers(together: Together, accumulate: int) -> None:
    settings: dict[str, object] = {"accumulate": accumulate}
    (expected, alone) = trained_reading({**settings, **loader(0)})
    several = [loader(3)] if accumulate > 1 else [loader(1), loader(3), loader(2, "fork")]
    for asked in several:
        state, result = trained_reading({**settings, **asked})
        assert _equal(state, expected), asked
        assert [epoch.loss for epoch in result.history] == [epoch.loss for epoch in alone.history]
        assert result.document()["workers"] == asked["loader"]["workers"]  # type: ignore[index]
    other, _ = trained_reading({**settings, **loader(0), "seed": 1})
    assert not _equal(other, expected)


@pytest.mark.slow
def test_spawned_workers_make_the_same(together: Together) -> None:
    assert _equal(trained_reading(loader(1, "spawn"))[0], trained_reading(loader(0))[0])


def test_several_processes_with_workers_each(together: Together) -> None:
    (expected, _), (same, _) = together(2, trained_reading, loader(0))
    assert _equal(same, expected)
    for asked in (loader(1), loader(2, "fork")):
        assert _equal(together(2, trained_reading, asked)[0][0], expected), asked


@pytest.mark.parametrize(("processes", "before", "after"), [(1, 2, 0), (1, 0, 3), (2, 1, 0)])
def test_a_run_goes_on_in_the_middle_of_an_epoch_with_other_workers(
    together: Together, tmp_path: Path, processes: int, before: int, after: int
) -> None:
    expected, _ = _run(together, processes, trained_reading, loader(0))
    assert _run(together, processes, stopped_reading, loader(before), tmp_path, 6) == 130
    state, result = _run(together, processes, trained_reading, loader(after), "draws", tmp_path)
    assert result.resumed in (6, 7)  # of 4 steps an epoch
    assert _equal(state, expected)


def test_rows_go_on_with_other_processes_and_workers(together: Together, tmp_path: Path) -> None:
    plain: dict[str, object] = {"optimizer": "sgd", "lr": 0.05}
    expected, _ = trained_reading({**plain, **loader(0)}, "reads")
    assert together(2, stopped_reading, {**plain, **loader(1)}, tmp_path, 6, "reads")[0] == 130
    state, result = trained_reading({**plain, **loader(2)}, "reads", tmp_path)
    assert result.resumed in (6, 7)
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, atol=2e-6)


@pytest.mark.parametrize("count", [0, 2])
def test_a_part_that_raises_is_told_with_its_rows_and_line(together: Together, count: int) -> None:
    kind, said = failed(loader(count), "raises")
    assert kind == "TaskError"
    assert "reading training rows" in said
    assert "raised OSError: the file of row 40 is damaged" in said
    assert "40" in said.partition("raised")[0] or "more" in said
    assert "reading.py:" in said.partition(": ")[0]
    assert "Traceback" not in said
    assert "DataLoader" not in said


def test_a_part_that_raises_in_one_of_several_processes(together: Together) -> None:
    told = together(1, failed, loader(1), "raises")[0]
    assert told == failed(loader(0), "raises")


def test_a_killed_worker_is_told_with_a_remedy(together: Together) -> None:
    kind, said = failed(loader(2), "dies")
    assert kind == "WorkerError"
    assert "a process that prepares batches was ended by SIGKILL" in said
    assert "fewer train.loader.workers" in said
    assert "shm-size" in said


def test_full_shared_memory_is_told_and_does_not_hang(together: Together) -> None:
    kind, said = failed(loader(1), "finds shared memory full")
    assert kind == "WorkerError"
    assert "shared memory for a batch could not be had" in said


def test_what_cannot_be_sent_is_told_and_a_fork_takes_it(together: Together) -> None:
    task = replace(blocks(), augment=lambda inputs: inputs)
    with pytest.raises(TaskError, match="cannot be sent to worker processes") as caught:
        fit(build_model(task), task, config(**loader(1)))
    assert "train.loader.start to fork" in str(caught.value)
    assert fit(build_model(task), task, config(**loader(1, "fork"))).workers == 1


def test_batches_of_a_step_that_was_left_are_passed_over() -> None:
    task, settings = blocks(), config(accumulate=2)
    plan = Plan(61, settings)
    batches = Loader(task, plan, ALONE, _CPU, 0)
    assert batches.take(0).order.number == 0
    left = batches.take(1)
    assert (left.order.step, left.order.number) == (1, 0)
    assert np.array_equal(left.order.rows, plan.batches(1)[0])
    batches.close()


def test_auto_takes_the_cores_that_training_leaves_for_a_costly_part() -> None:
    plain = blocks().parts.train
    costly, cores = Reading(plain, "reads"), machine.usable_cores()
    assert workers(plain, config(), _CPU) == 0
    assert workers(Subset(plain, np.arange(3)), config(), _CPU) == 0
    assert workers(Subset(costly, np.arange(3)), config(), _CPU) == min(8, max(1, cores - 1))
    assert workers(costly, config(threads=None), _CPU) == 1
    assert workers(costly, config(**loader(0)), _CPU) == 0
    assert workers(plain, config(**loader(5)), _CPU) == 5


def test_waiting_is_measured_and_shown_when_it_matters(told: Any) -> None:
    task = reading("slow")
    result = fit(build_model(task), task, config(**loader(0)), progress=told)
    part: Any = task.parts.train
    assert sum(part.seconds[1:]) <= result.waited < result.seconds  # the first batch is made before the clock runs
    assert "% for data" in told.notes[-1]
    assert result.document()["waited"] == result.waited


_PROJECT = """
import numpy as np
import torch
from headway.tasks import Task, split

def net():
    return torch.nn.Linear(6, 2)

def augment(inputs):
    return {"x": inputs["x"] + torch.randn(inputs["x"].shape)}

def task():
    values = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    return Task(parts=split({"x": values}, (values.sum(1) > 0).astype(np.int64)), model=net, augment=augment)
"""
_RECIPE = """
name: tiny
task: {use: "tiny_task.py:task"}
train:
  {epochs: 100000, batch_size: 20, threads: 1, device: cpu, precision: fp32, checkpoint_seconds: 1.0e-9,
   loader: {workers: 2}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["forkserver", "fork"])
def test_workers_end_with_a_training_process_that_is_killed(tmp_path: Path, home: Path, start: str) -> None:
    (tmp_path / "tiny_task.py").write_text(_PROJECT)
    (tmp_path / "tiny.yaml").write_text(_RECIPE)
    command = [sys.executable, "-m", "headway", "train", "tiny.yaml", "--set", f"train.loader.start={start}"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as run:
        folder = home / "cache" / "ship" / "train"
        while run.poll() is None and not list(folder.glob("*.work/checkpoint.safetensors")):
            threading.Event().wait(0.05)
        everyone = psutil.Process(run.pid).children(recursive=True)
        run.kill()
    assert len(everyone) >= 2
    _, left = psutil.wait_procs(everyone, timeout=20)
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_saves_and_leaves_no_process_behind(tmp_path: Path, home: Path, processes: int) -> None:
    (tmp_path / "tiny_task.py").write_text(_PROJECT)
    (tmp_path / "tiny.yaml").write_text(_RECIPE)
    command = [sys.executable, "-m", "headway", "train", "tiny.yaml", "--nproc", str(processes)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        folder = home / "cache" / "ship" / "train"
        found = "*.work/checkpoint.safetensors" if processes == 1 else "*.work/step-*/checkpoint.json"
        while run.poll() is None and not list(folder.glob(found)):
            threading.Event().wait(0.05)  # files cannot be awaited; this only spares the processor
        everyone = psutil.Process(run.pid).children(recursive=True)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        assert run.stderr is not None
        said = run.stderr.read()
    assert run.returncode == 130, said
    assert "interrupted; what was saved is intact" in said
    assert "Traceback" not in said
    assert len(everyone) >= 2 * processes
    _, left = psutil.wait_procs(everyone, timeout=20)
    assert not left
    assert list(folder.glob(found))
