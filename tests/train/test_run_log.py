"""What a training leaves in its record."""

import json
from pathlib import Path
from typing import Any

import pytest

from headway.core.errors import TaskError
from headway.runs.read import find
from headway.runs.record import recording
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.monitor import StepDone
from headway.train.run_log import RunLog, writers


def _config(**values: object) -> TrainConfig:
    base: dict[str, object] = {"epochs": 2, "batch_size": 64, "threads": 1, "device": "cpu", "precision": "fp32"}
    return TrainConfig.model_validate(base | values)


def test_curves_and_tensors_of_a_real_training(home: Path, task: Task) -> None:
    with recording("train", "digits", base=Path(), recipe={}) as run:
        result = fit(build_model(task), task, _config(health={"every": 5}), monitors=[RunLog(run)])
    curves = find("last").curves()
    assert curves["loss"][0] == list(range(1, result.steps + 1))
    assert curves["epoch_loss"][1] == [epoch.loss for epoch in result.history]
    assert max(curves["lr"][1]) == pytest.approx(3e-3, rel=0.1)
    assert all(value > 0 for value in curves["rows_s"][1])
    looks = [json.loads(line) for line in (run.folder / "tensors.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [1, 6, 11, 16, 21]
    model = build_model(task)
    assert looks[0]["tensors"].keys() == dict(model.named_parameters()).keys()
    name, weight = next(iter(model.named_parameters()))
    mean, deviation = looks[0]["tensors"][name][1:]
    assert mean == pytest.approx(weight.mean().item(), rel=1e-4, abs=1e-6)
    assert deviation == pytest.approx(weight.std(correction=0).item(), rel=1e-4)


def test_a_resumed_training_names_the_run_it_goes_on_from(home: Path, tmp_path: Path, task: Task) -> None:
    class Stop(RunLog):
        def after_step(self, done: StepDone) -> None:
            super().after_step(done)
            if done.step == 17:
                raise TaskError("enough")

    ids = []
    for kind in (Stop, RunLog):
        with recording("train", "digits", base=Path(), recipe={}) as run:
            ids.append(run.record.id)
            if kind is Stop:
                with pytest.raises(TaskError, match="enough"):
                    fit(build_model(task), task, _config(), folder=tmp_path, monitors=[kind(run)])
            else:
                fit(build_model(task), task, _config(), folder=tmp_path, monitors=[kind(run)])
    second = find(ids[1])
    assert second.record.continues == ids[0]
    assert len((second.folder / "metrics.jsonl").read_text().splitlines()) == 12 + 1, "from step 13, and the epoch"
    assert second.curves()["loss"][0] == list(range(1, 25))


def test_long_runs_are_written_with_fewer_lines(home: Path) -> None:
    with recording("train", "long", base=Path(), recipe={}) as run:
        log = RunLog(run)
        for step in range(1, 7001):
            log.after_step(StepDone(step, float(step), 1.0, 0.1, 10, 0.01, skipped=step == 6999))
    steps, losses = find("last").curves()["loss"]
    assert len(steps) == 3000
    assert (steps[999], steps[1000], steps[-1]) == (1000, 1002, 7000)
    assert losses[1000] == 1001.5
    assert losses[-1] == pytest.approx((6997 + 6998 + 7000) / 3), "a step that was left out is no part of the mean"


def test_tensorboard_reads_what_it_is_told(home: Path, task: Task) -> None:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with recording("train", "digits", base=Path(), recipe={}) as run, writers(["tensorboard"], run) as monitors:
        result = fit(build_model(task), task, _config(health={"every": 8}), monitors=monitors)
    events = accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, result.steps + 1))
    assert [event.value for event in losses] == pytest.approx(find("last").curves()["loss"][1])
    name = next(name for name, _ in build_model(task).named_parameters())
    assert [event.step for event in events.Scalars(f"{name}/deviation")] == [1, 9, 17]
