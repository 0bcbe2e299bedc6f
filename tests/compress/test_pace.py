"""Pruning for time: what groups cost is measured, and the time asked for is what is left."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from headway.compress import pace
from headway.compress.channels import Group
from headway.compress.graph import find_groups
from headway.compress.pace import WHOLE, Pace, TimeBudget
from headway.compress.prune import Prune, PruneConfig
from headway.compress.selection import select
from headway.compress.step import StepContext
from headway.core.errors import TaskError
from headway.tasks import Arrays, Parts, Task


def make() -> nn.Module:
    """The first convolution sees 16 times as many places as the second; its channels cost more time, fewer weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1), nn.MaxPool2d(8),
        nn.Conv2d(8, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip


@pytest.fixture
def timed(context: StepContext) -> StepContext:
    draw = np.random.default_rng(0)
    part = Arrays({"image": draw.normal(size=(16, 8, 32, 32)).astype(np.float32)}, draw.integers(0, 2, 16))
    return replace(context, task=Task(parts=Parts(part, part, part, part), model=make))


def groups(model: nn.Module) -> dict[str, Group]:
    found = find_groups(model, lambda module: (module(torch.randn(2, 8, 32, 32)),))
    return {group.name: group for group in found}


def test_channels_that_see_more_places_cost_more_time(timed: StepContext) -> None:
    model = make()
    found = groups(model)
    clock = Pace(model, timed)
    budget = clock.budget(model, list(found.values()), "latency")
    clock.close()
    assert budget.total == pytest.approx(WHOLE, rel=0.3)
    assert budget.cost(found["0"], 32) > 3 * budget.cost(found["4"], 32)
    assert not list(timed.folder.iterdir())


def test_the_time_asked_for_is_what_is_left(timed: StepContext, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {"0": WHOLE / 128, "4": WHOLE / 1024}  # a channel's: half and a quarter of a run

    def budget(self: Pace, model: nn.Module, found: list[Group], title: str) -> TimeBudget:
        total = WHOLE / 4 + sum(cost.get(group.name, 0) * group.channels for group in found)
        return TimeBudget(round(total), {group.name: cost.get(group.name, 0) for group in found})

    monkeypatch.setattr(pace.Pace, "budget", budget)
    config = PruneConfig(keep=0.6, every=0.2, budget="latency", importance="l1", align=4, finetune_epochs=0, least=0.05)
    model, record = Prune(config).apply(make(), timed)
    left = 0.25 + model[0].out_channels / 128 + model[4].out_channels / 1024
    assert left == pytest.approx(0.6, abs=0.03)
    assert model[0].out_channels < 64
    assert 0 < record["latency_share"] < 1.2
    assert record["parameters"]["after"] < record["parameters"]["before"]


def test_a_time_that_cannot_be_reached_is_refused(timed: StepContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def budget(self: Pace, model: nn.Module, found: list[Group], title: str) -> TimeBudget:
        return TimeBudget(
            WHOLE, {group.name: 0.4 * WHOLE / group.channels if group.name == "0" else 0 for group in found}
        )

    monkeypatch.setattr(pace.Pace, "budget", budget)
    config = PruneConfig(keep=0.5, budget="latency", importance="l1", align=4, finetune_epochs=0)
    model = make()
    with pytest.raises(TaskError, match=r"keep: 0\.5 cannot be reached.* of a run's time remains"):
        Prune(config).apply(model, timed)
    assert model[0].out_channels == 64


def test_of_equal_importance_the_dearest_in_time_go_first() -> None:
    found = list(groups(make()).values())
    dear = TimeBudget(WHOLE, {group.name: 10.0 if group.name == "0" else 1.0 for group in found})
    scores = [np.ones(group.channels) for group in found]
    sizes = {group.name: 8 for group in found}
    chosen = select(dear, found, scores, WHOLE - 80, blocks=sizes, least=sizes)
    assert [(group.name, len(gone)) for group, gone in chosen] == [("0", 8)]


def test_what_is_only_timed_needs_no_export_for_a_bundle(timed: StepContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(arguments)

    with monkeypatch.context() as without:
        without.setattr(pace.OnnxExport, "write", refuse)
        clock = Pace(make(), timed)
    monkeypatch.setattr(Pace, "_trace", refuse)  # as a module's code may
    assert 0.3 < clock.share(make()) < 3  # the same network, whichever wrote it
    clock.close()
