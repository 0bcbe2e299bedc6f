"""Scores of channels: what they say of channels whose worth is known."""

import numpy as np
import pytest
import torch
from torch import nn

from headway.compress.batchnorm import recalibrate
from headway.compress.channels import Group
from headway.compress.graph import find_groups
from headway.compress.importance import l1, taylor, variance
from headway.tasks import Arrays, Parts, Task


def make() -> nn.Module:
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
    return nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)).eval()


def groups(model: nn.Module) -> dict[str, Group]:
    found = find_groups(model, lambda module: (module(torch.randn(2, 1, 8, 8)),))
    return {group.name: group for group in found}


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_a_channel_that_nobody_reads_matters_least(task: Task, importance: str) -> None:
    model = make()
    with torch.no_grad():
        model[3].weight[:, 5] = 0
        model[0].weight[5] *= 0.5
    group = groups(model)["0"]
    (scores,) = l1(model, [group]) if importance == "l1" else taylor(model, [group], task, seed=0)
    assert scores.argmin() == 5
    assert importance == "l1" or scores[5] == 0


def test_l1_compares_layers_of_other_sizes(task: Task) -> None:
    model = make()
    found = list(groups(model).values())
    plain = l1(model, found)
    with torch.no_grad():
        model[3].weight *= 1000
    for before, after in zip(plain, l1(model, found), strict=True):
        assert after.mean() == pytest.approx(1)
        np.testing.assert_allclose(after, before, rtol=1e-5)


def test_a_channel_that_does_not_vary_matters_least(task: Task) -> None:
    model = make()
    group = groups(model)["0"]
    with torch.no_grad():
        model[1].weight[3], model[1].bias[3] = 0, 7  # always 7 after the rectifier
    (scores,) = variance(model, [group], task, seed=0)
    assert scores.argmin() == 3
    assert scores[3] == pytest.approx(0, abs=1e-9)
    assert scores.mean() == pytest.approx(1)
    assert not model[3]._forward_pre_hooks
    few = task.parts.calibration.batch(np.arange(len(task.parts.calibration)))[0]["image"]
    with torch.no_grad():
        seen = model[:3](torch.from_numpy(few)).double().var((0, 2, 3), correction=0).numpy()
    np.testing.assert_allclose(scores, seen / seen.mean(), rtol=1e-6)


def test_taylor_foretells_the_change_of_the_loss(task: Task) -> None:
    """One batch, so that nothing is averaged: the score is the slope of the loss as the channel fades."""
    model = make()
    part = Arrays(*task.parts.train.batch(np.arange(32)))
    few = Task(parts=Parts(part, part, part, part), model=make)
    group = groups(model)["0"]
    (scores,) = taylor(model, [group], few, seed=0)
    inputs, targets = part.batch(np.arange(32))
    image, wanted = torch.from_numpy(inputs["image"]).double(), torch.from_numpy(targets)
    exact, fade = model.double(), 1e-4
    with torch.no_grad():
        base = nn.functional.cross_entropy(exact(image), wanted)
        for channel, score in enumerate(scores):
            exact[3].weight[:, channel] *= 1 - fade
            slope = (nn.functional.cross_entropy(exact(image), wanted) - base) / fade
            exact[3].weight[:, channel] /= 1 - fade
            assert abs(float(slope)) == pytest.approx(score, rel=0.02, abs=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_statistics_of_batch_norm_are_made_anew(task: Task) -> None:
    model = make()
    image = torch.from_numpy(task.parts.train.batch(np.arange(len(task.parts.train)))[0]["image"])
    model[1].running_mean += 5
    recalibrate(model, task, seed=0, batch_size=128)
    features = model[0](image)
    torch.testing.assert_close(model[1].running_mean, features.mean((0, 2, 3)), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(model[1].running_var, features.var((0, 2, 3)), rtol=5e-2, atol=1e-3)
    assert model[1].momentum == 0.1
    assert not model.training
    assert not model[1].training
