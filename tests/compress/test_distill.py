"""Distillation on real digits: what is learned, of whom, resuming, replay, and what does not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from headway.compress.depth import keep_layers
from headway.compress.distill import Distill, DistillConfig
from headway.compress.prune import Prune, PruneConfig
from headway.compress.step import ModuleStep, StepContext
from headway.compress.teacher import feature_loss, soft_loss
from headway.compress.teaching import TeachingConfig
from headway.core.errors import ConfigError, TaskError
from headway.tasks import Task
from headway.train.predict import predict, score

STUDENT = """
import torch
from headway.tasks.cnn import ConvNet

def small():
    return ConvNet(6)

def plain():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def other():
    return ConvNet(4, num_classes=9)

def broken():
    raise ValueError("no such size")

SIZE = 4
"""
Fresh = Callable[[], nn.Module]


@pytest.fixture
def fresh(task: Task, weights: dict[str, torch.Tensor]) -> Fresh:
    """Makes copies of the trained CNN."""

    def make() -> nn.Module:
        assert task.model is not None
        model = task.model()
        model.load_state_dict(weights)
        return model.eval()

    return make


@pytest.fixture
def taught(context: StepContext, fresh: Fresh) -> StepContext:
    """A step's place in which the trained CNN is the original."""
    return replace(context, original=fresh)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with factories of students."""
    (tmp_path / "students.py").write_text(STUDENT)
    return tmp_path


def agreement(one: nn.Module, other: nn.Module, task: Task) -> float:
    """Mean divergence of the first's classes from the second's on test data: less is nearer."""
    (have, _), (wanted, _) = (predict(model, task.parts.test, task.output_names) for model in (one, other))
    return float(soft_loss(torch.from_numpy(have["logits"]), torch.from_numpy(wanted["logits"]), 1))


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 20))
def test_the_soft_loss_is_zero_for_the_teacher_alone_and_has_the_gradient_of_the_paper(seed: int, t: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(4, 5, generator=draw, dtype=torch.float32) * 3 for _ in range(2))
    assert soft_loss(teacher, teacher + 7, t).item() == pytest.approx(0, abs=1e-5 * max(1, t * t)), (
        "a shift of all logits says nothing"
    )
    student.requires_grad_()
    loss = soft_loss(student, teacher, t)
    assert loss.item() >= -1e-6 * t * t, "but for what 32 bits round"
    torch.autograd.backward(loss)
    # Hinton et al. 2015, equation 2: (1 / T) (q - p), here times T squared and by the rows.
    expected = t / 4 * (functional.softmax(student / t, 1) - functional.softmax(teacher / t, 1))
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected.detach(), atol=1e-5 * max(1, t), rtol=1e-3)


def test_classes_of_places_are_one_more_row_each() -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    flat = [value.permute(0, 2, 3, 1).reshape(-1, 3) for value in (student, teacher)]
    torch.testing.assert_close(soft_loss(student, teacher, 2), soft_loss(flat[0], flat[1], 2))


def test_a_features_loss_does_not_know_its_scale() -> None:
    have, wanted = torch.randn(8, 3), torch.randn(8, 3)
    torch.testing.assert_close(feature_loss(have * 1000, wanted * 1000), feature_loss(have, wanted))
    assert feature_loss(wanted, wanted) == 0
    assert feature_loss(have, torch.zeros(8, 3)).isfinite()


def test_a_student_of_ones_own_learns_from_the_teacher_what_labels_do_not_say(
    taught: StepContext, fresh: Fresh, task: Task, base: Path
) -> None:
    """Random labels: what the student then knows it has from the teacher."""
    targets = np.random.default_rng(0).integers(0, 10, len(task.parts.train))

    class Mislabelled:
        def __len__(self) -> int:
            return len(task.parts.train)

        def batch(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
            return task.parts.train.batch(rows)[0], targets[rows]

        def digest(self) -> str:
            return "0" * 64

    blind = replace(task, parts=replace(task.parts, train=Mislabelled()))
    step: ModuleStep = Distill(DistillConfig(student="students.py:small", epochs=8, weight=1), base)
    student, record = step.apply(fresh(), replace(taught, task=blind))
    assert score(student, task, task.parts.test) > 0.5
    assert json.loads(json.dumps(record)) == record
    assert record["parameters"]["student"] < 0.2 * record["parameters"]["teacher"]
    assert not student.training
    assert all(not module._forward_hooks for module in student.modules())

    rebuilt = step.replay(fresh(), record)
    rebuilt.load_state_dict(student.state_dict())
    inputs, _ = task.parts.test.batch(np.arange(20))
    with torch.no_grad():
        assert torch.equal(
            rebuilt.eval()(torch.from_numpy(inputs["image"])), student(torch.from_numpy(inputs["image"]))
        )


def test_features_alone_teach(taught: StepContext, fresh: Fresh, task: Task, base: Path) -> None:
    """Without logits and with a loss that says nothing, the student's layer comes to tell the classes apart."""
    silent = replace(task, loss=lambda outputs, targets: outputs["logits"].sum() * 0)
    config = DistillConfig(student="students.py:small", weight=0, features={"features.8": "features.8"}, epochs=8)
    student, record = Distill(config, base).apply(fresh(), replace(taught, task=silent))
    assert record["loss"] < 0.6, "share of the teacher's features that the projection does not explain"
    assert not [name for name in student.state_dict() if "projection" in name]


def test_what_pruning_took_is_learned_again_from_the_original(
    taught: StepContext, fresh: Fresh, task: Task, tmp_path: Path
) -> None:
    """Nearer to the original than plain fine-tuning of the same length, and as right."""
    cut = PruneConfig(keep=0.3, every=0.7, align=4, finetune_epochs=6)
    far = {}
    for name, distill in (("plain", None), ("taught", TeachingConfig())):
        model, record = Prune(cut.model_copy(update={"distill": distill})).apply(
            fresh(), replace(taught, folder=tmp_path / name)
        )
        far[name] = agreement(model, fresh(), task), score(model, task, task.parts.test)
        assert record["share"] == pytest.approx(0.3, abs=0.03)
    assert far["taught"][0] < 0.85 * far["plain"][0]
    assert far["taught"][1] > far["plain"][1] - 0.02


def test_a_step_after_pruning_teaches_the_pruned_model(
    taught: StepContext, fresh: Fresh, task: Task, tmp_path: Path
) -> None:
    cut = PruneConfig(keep=0.3, every=0.7, align=4, finetune_epochs=0)
    pruned, cuts = Prune(cut).apply(fresh(), replace(taught, folder=tmp_path / "prune"))
    before, widths = agreement(pruned, fresh(), task), [tuple(p.shape) for p in pruned.parameters()]
    step = Distill(DistillConfig(epochs=2, features={"features.7": "features.7"}))
    model, record = step.apply(pruned, taught)
    assert agreement(model, fresh(), task) < 0.3 * before
    assert [tuple(p.shape) for p in model.parameters()] == widths
    rebuilt = step.replay(Prune(cut).replay(fresh(), cuts), json.loads(json.dumps(record)))
    rebuilt.load_state_dict(model.state_dict())


def test_layers_and_width_of_the_original_are_where_the_student_begins(
    taught: StepContext, fresh: Fresh, task: Task
) -> None:
    config = DistillConfig(keep_layers={"features": (0, 1, 2, 3, 5, 6, 8)}, narrow=0.5, epochs=4, lr=1)
    step = Distill(config)
    original = fresh()
    student, record = step.apply(fresh(), taught)
    whole, left = (sum(p.numel() for p in model.parameters()) for model in (original, student))
    assert left < 0.5 * whole
    assert score(student, task, task.parts.test) > 0.7
    rebuilt = step.replay(fresh(), json.loads(json.dumps(record)))
    rebuilt.load_state_dict(student.state_dict())


def test_what_is_kept_keeps_its_weights_and_its_class() -> None:
    class Stack(nn.ModuleList):
        pass

    model = nn.ModuleDict({"blocks": Stack(nn.Linear(2, 2) for _ in range(5))})
    blocks = model["blocks"]
    assert isinstance(blocks, Stack)
    wanted = [blocks[0], blocks[2], blocks[4]]
    keep_layers(model, {"blocks": [0, 2, 4]})
    assert list(blocks) == wanted
    assert type(model["blocks"]) is Stack
    assert list(model.state_dict())[-1] == "blocks.2.bias"


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ({"featurs": [0]}, "did you mean 'features'"),
        ({"classifier": [0]}, "nn.Sequential or nn.ModuleList"),
        ({"features": [0, 20]}, "there is no layer 20: the last one is 8"),
    ],
)
def test_layers_that_are_not_there(fresh: Fresh, kept: dict[str, list[int]], says: str) -> None:
    with pytest.raises(TaskError) as caught:
        keep_layers(fresh(), kept)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"features": {"featurs.7": "features.7"}}, "the teacher has no such layer"),
        ({"features": {"features.0": "features.7"}}, "only their channels may differ"),
        ({"features": {"features.7": "features.7"}, "student": "students.py:plain"}, "the student has no such layer"),
        ({"student": "students.py:other"}, "[2, 9] of the student and [2, 10] of the teacher"),
        ({"student": "students.py:broken"}, "the student's factory raised ValueError: no such size"),
        ({"student": "students.py:smal"}, "did you mean 'small'"),
        ({"keep_layers": {"features": [0, 1, 8]}}, "the student does not run: RuntimeError"),
        ({"student": "students.py:SIZE"}, "no function 'SIZE'"),
    ],
)
def test_what_does_not_fit_is_named(
    taught: StepContext, fresh: Fresh, base: Path, settings: dict[str, object], says: str
) -> None:
    with pytest.raises((TaskError, ConfigError)) as caught:
        Distill(DistillConfig.model_validate({"epochs": 1, **settings}), base).apply(fresh(), taught)
    assert says in str(caught.value)


def test_one_column_is_no_choice_between_classes(taught: StepContext, task: Task) -> None:
    value = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(TaskError, match=r"logits are \[rows, classes"):
        Distill(DistillConfig(epochs=1)).apply(value, replace(taught, original=lambda: value))


@pytest.mark.parametrize("pruning", [False, True])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    taught: StepContext, fresh: Fresh, task: Task, tmp_path: Path, pruning: bool
) -> None:
    """Stopped in mid-epoch of training, with projections and dropped channels on the way."""

    def train(name: str, stop: int | None) -> dict[str, torch.Tensor]:
        calls = 0

        def loss(outputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            assert set(outputs) == {"logits"}, "the task's own loss sees the task's own outputs"
            return functional.cross_entropy(outputs["logits"], targets.long())

        lesson = {"features": {"features.7": "features.7"}}
        step: ModuleStep = Distill(DistillConfig(narrow=0.6, epochs=2, **lesson))
        if pruning:
            step = Prune(PruneConfig(keep=0.6, every=0.4, importance="l1", finetune_epochs=2, distill=lesson))
        place = replace(taught, task=replace(task, loss=loss), folder=tmp_path / name)
        return step.apply(fresh(), place)[0].state_dict()

    straight = train("straight", None)
    with pytest.raises(KeyboardInterrupt):
        train("again", 15)
    assert list((tmp_path / "again").rglob("checkpoint.safetensors"))
    resumed = train("again", None)
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_a_checkpoint_of_other_settings_is_not_taken(taught: StepContext, fresh: Fresh, base: Path) -> None:
    """In one folder, another temperature is another run."""

    def train(folder: Path, temperature: float) -> dict[str, torch.Tensor]:
        config = DistillConfig(student="students.py:small", epochs=0.2, temperature=temperature)
        return Distill(config, base).apply(fresh(), replace(taught, folder=folder))[0].state_dict()

    train(base / "work", 2)
    again, straight = train(base / "work", 8), train(base / "straight", 8)
    assert all(torch.equal(value, again[name]) for name, value in straight.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0}, "greater than 0"),
        ({"weight": 0}, "nothing to be learned"),
        ({"student": "a.py:b", "narrow": 0.5}, "model of its own"),
        ({"keep_layers": {"a": []}}, "each greater than the last"),
        ({"keep_layers": {"a": [2, 1]}}, "each greater than the last"),
        ({"keep_layers": {"a": [-1]}}, "whole numbers from 0"),
        ({"temprature": 3}, "did you mean 'temperature'"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DistillConfig.model_validate(wrong)
