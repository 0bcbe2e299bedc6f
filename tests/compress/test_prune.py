"""Pruning in rounds on real digits: what is left, resuming, replay, and the road on to a quantized file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from headway.compress import rounds
from headway.compress.prune import Prune, PruneConfig
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.step import ModuleStep, StepContext
from headway.core.errors import TaskError
from headway.core.progress import Bar
from headway.export.onnx import OnnxExport
from headway.tasks import Task
from headway.train.predict import score

QUICK = PruneConfig(keep=0.6, every=0.2, align=4, finetune_epochs=2)


def widths(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


class Remembers:
    """Keeps what was said; stops the run when a piece of work with the given title begins."""

    def __init__(self, stop: str = "") -> None:
        self.said: list[str] = []
        self.titles: list[str] = []
        self._stop = stop

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        self.titles.append(title)
        if title == self._stop:
            raise KeyboardInterrupt
        yield _Nothing()

    def say(self, text: str) -> None:
        self.said.append(text)


class _Nothing:
    def advance(self, amount: float = 1, note: str = "") -> None: ...


@pytest.mark.parametrize("importance", ["l1", "variance", "taylor"])
def test_the_share_is_reached_and_the_accuracy_kept(
    trained: nn.Module, task: Task, context: StepContext, importance: str
) -> None:
    original = score(trained, task, task.parts.test)
    before = sum(parameter.numel() for parameter in trained.parameters())
    step: ModuleStep = Prune(QUICK.model_copy(update={"importance": importance}))
    model, record = step.apply(trained, context)
    after = sum(parameter.numel() for parameter in model.parameters())
    assert record["parameters"] == {"before": before, "after": after}
    assert record["share"] == after / before == pytest.approx(0.6, abs=0.02)
    assert len(record["rounds"]) == 2
    assert record["rounds"][0]["share"] == pytest.approx(0.8, abs=0.03)
    assert all(width % 4 == 0 for width in widths(model))
    assert not model.training
    assert score(model, task, task.parts.test) > original - 0.04


def test_replay_and_weights_give_the_same_bits(trained: nn.Module, task: Task, context: StepContext) -> None:
    model, record = Prune(QUICK).apply(trained, context)
    assert task.model is not None
    rebuilt = Prune(QUICK).replay(task.model(), json.loads(json.dumps(record))).eval()
    rebuilt.load_state_dict(model.state_dict())
    inputs, _ = task.parts.selection.batch(np.arange(20))
    with torch.inference_mode():
        image = torch.from_numpy(inputs["image"])
        assert torch.equal(model(image), rebuilt(image))


@pytest.mark.parametrize("stop", ["importance 2/3", "prune 2/3", "prune 3/3"])
def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    trained: nn.Module,
    task: Task,
    weights: dict[str, torch.Tensor],
    context: StepContext,
    tmp_path: Path,
    stop: str,
) -> None:
    def fresh() -> nn.Module:
        assert task.model is not None
        model = task.model()
        model.load_state_dict(weights)
        return model

    config = QUICK.model_copy(update={"every": 0.14})
    straight, record = Prune(config).apply(fresh(), replace(context, folder=tmp_path / "straight"))
    with pytest.raises(KeyboardInterrupt):
        Prune(config).apply(fresh(), replace(context, progress=Remembers(stop)))
    progress = Remembers()
    resumed, again = Prune(config).apply(fresh(), replace(context, progress=progress))
    assert any("going on after round" in text for text in progress.said)
    assert "importance 1/3" not in progress.titles
    assert again == record
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    once_more = Remembers()
    Prune(config).apply(fresh(), replace(context, progress=once_more))
    assert once_more.titles == []


def test_what_lies_in_the_folder_must_be_of_this_run_and_whole(
    trained: nn.Module, task: Task, weights: dict[str, torch.Tensor], context: StepContext
) -> None:
    Prune(QUICK).apply(trained, context)
    (kept,) = context.folder.glob("round-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert task.model is not None
    for config in (QUICK, QUICK.model_copy(update={"keep": 0.7})):
        model, progress = task.model(), Remembers()
        model.load_state_dict(weights)
        Prune(config).apply(model, replace(context, progress=progress))
        assert not any("going on" in text for text in progress.said)
        assert progress.titles[0].startswith("importance 1/")


def test_without_fine_tuning_statistics_alone_are_made_anew(
    trained: nn.Module, task: Task, context: StepContext
) -> None:
    config = PruneConfig(keep=0.8, every=1, align=1, finetune_epochs=0)
    model, record = Prune(config).apply(trained, context)
    assert record["rounds"] == [{"share": record["share"], "loss": None}]
    assert score(model, task, task.parts.test) > 0.7


@pytest.mark.parametrize(("keep", "blocks"), [(0.6, {8, 32}), (0.1, {2, 8})])
def test_the_machine_s_kernels_choose_the_block_and_keep_may_make_it_smaller(
    trained: nn.Module, context: StepContext, monkeypatch: pytest.MonkeyPatch, keep: float, blocks: set[int]
) -> None:
    monkeypatch.setattr(rounds, "kernel_blocks", lambda *given: {"convolution": 8, "linear": 32})
    config = PruneConfig(keep=keep, every=1, finetune_epochs=0, importance="l1", least=0.05)
    model, record = Prune(config).apply(trained, context)
    assert record["share"] == pytest.approx(keep, abs=0.03)
    assert set(record["blocks"].values()) <= blocks
    assert all(width % min(blocks) == 0 for width in widths(model))


def test_layer_by_layer_every_layer_loses_about_the_same_share(trained: nn.Module, context: StepContext) -> None:
    before = widths(trained)
    config = PruneConfig(keep=0.5, every=0.25, align=1, scope="layer", finetune_epochs=0, importance="l1")
    model, record = Prune(config).apply(trained, context)
    assert record["share"] == pytest.approx(0.5, abs=0.01)
    shares = [after / whole for after, whole in zip(widths(model), before, strict=True)]
    assert max(shares) - min(shares) < 2 / min(before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep": 1.0}, "less than 1"),
        ({"keep": 0}, "greater than 0"),
        ({"align": 0}, "greater than or equal to 1"),
        ({"importance": "magic"}, "'l1', 'variance' or 'taylor'"),
        ({"every": 0}, "greater than 0"),
        ({"scope": "model"}, "'global' or 'layer'"),
        ({"keeps": 0.5}, "did you mean 'keep'"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PruneConfig.model_validate(wrong)


def test_a_share_that_cannot_be_reached_is_refused_before_any_work(trained: nn.Module, context: StepContext) -> None:
    before = widths(trained)
    with pytest.raises(TaskError, match=r"keep: 0\.01 cannot be reached.*of the parameters remain"):
        Prune(PruneConfig(keep=0.01, align=8)).apply(trained, context)
    assert widths(trained) == before


def test_nothing_to_prune(task: Task, context: StepContext) -> None:
    with pytest.raises(TaskError, match="no layer of the model can be pruned"):
        Prune().apply(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), context)


def test_pruned_then_quantized_it_is_a_fraction_of_the_size_and_keeps_its_accuracy(
    trained: nn.Module, task: Task, context: StepContext, accuracy: Callable[[Path], float], tmp_path: Path
) -> None:
    example, _ = task.parts.train.batch(np.arange(2))
    original, pruned, int8 = (tmp_path / name for name in ("fp32.onnx", "pruned.onnx", "int8.onnx"))
    OnnxExport().write(trained, example, task.output_names, original)
    model, _ = Prune(QUICK).apply(trained, context)
    OnnxExport().write(model, example, task.output_names, pruned)
    Quantize(QuantizeConfig(weight_range="reduced")).apply(pruned, int8, context)
    assert int8.stat().st_size < pruned.stat().st_size < 0.65 * original.stat().st_size
    assert int8.stat().st_size < 0.3 * original.stat().st_size
    assert accuracy(int8) > accuracy(original) - 0.04


def test_a_clean_run_meets_no_checkpoint_of_another_round(trained: nn.Module, context: StepContext) -> None:
    told = Remembers()
    Prune(QUICK.model_copy(update={"finetune_epochs": 0.2})).apply(trained, replace(context, progress=told))
    assert not [text for text in told.said if "afresh" in text]
    assert not list(context.folder.glob("finetune*"))
