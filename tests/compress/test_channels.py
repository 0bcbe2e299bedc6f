"""Groups of channels, cutting them, counting what goes, and replaying a record on an untouched model."""

import copy
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from headway.compress.channels import Budget, Group, remove
from headway.compress.graph import find_groups
from headway.compress.slices import Place, replay
from headway.core.errors import TaskError, WeightsError

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Convolutions, then a flattened map: each channel is 16 inputs of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PReLU(12), nn.Conv2d(12, 10, 3, padding=1))
        self.hidden, self.head = nn.Linear(160, 14), nn.Linear(14, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.features(x), 2).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


class Residual(nn.Module):
    """What is added must have the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.inner, self.outer = nn.Conv2d(12, 9, 3, padding=1), nn.Conv2d(9, 12, 3, padding=1)
        self.short, self.head = nn.Conv2d(12, 12, 1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.head((x + self.short(x)).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.bn, self.point, self.head = nn.BatchNorm2d(10), nn.Conv2d(10, 14, 1), nn.Linear(14, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.point(torch.relu(self.bn(self.deep(self.stem(x)))))).mean((2, 3)))


class Concat(nn.Module):
    """Two branches behind one another in the channels, with groups of channels in one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.norm, self.join, self.head = nn.GroupNorm(4, 8), nn.ConvTranspose2d(20, 10, 2, 2), nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = torch.relu(self.left(x))
        joined = torch.cat([left, torch.relu(self.norm(self.right(left)))], 1)
        return self.head(self.join(joined).mean((2, 3)))


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "depthwise": Depthwise,
    "concat": Concat,
}


def make(net: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[net]().eval()


def forward(model: nn.Module) -> tuple[torch.Tensor, ...]:
    return (model(IMAGE),)


def some(group: Group, draw: np.random.Generator) -> np.ndarray:
    """Channels to cut: as many of each folded part, and never all."""
    columns = group.channels // group.fold
    gone = draw.permutation(columns)[: draw.integers(0, columns)]
    return np.concatenate([gone + part * columns for part in range(group.fold)])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(net=st.sampled_from(sorted(NETS)), seed=st.integers(0, 2**32 - 1), rounds=st.integers(1, 3))
def test_a_record_rebuilds_the_network_and_its_weights_answer_the_same_bits(net: str, seed: int, rounds: int) -> None:
    draw, model = np.random.default_rng(seed), make(net)
    kept: dict[Place, list[int]] = {}
    for _ in range(rounds):
        try:
            found = find_groups(model, forward)
        except TaskError:
            break  # every layer is down to its last channel
        budget = Budget(model, found)
        for group in found:
            channels = some(group, draw)
            budget.spend(group, len(channels))
            for place, stay in remove(model, group, channels).items():
                kept[place] = [kept[place][i] for i in stay] if place in kept else stay
        assert budget.total == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():  # as fine-tuning would
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    record = json.loads(json.dumps([{"name": p.name, "side": p.side, "kept": k} for p, k in kept.items()]))
    rebuilt = replay(make(net), record)
    assert str(rebuilt) == str(model)
    rebuilt.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(IMAGE), model(IMAGE))


def test_before_training_goes_on_a_cut_of_dead_channels_changes_nothing() -> None:
    model = make("residual")
    before = model(IMAGE)
    (group,) = (group for group in find_groups(model, forward) if group.name == "inner")
    dead = np.array([1, 4, 8])
    with torch.no_grad():
        model.outer.weight[:, dead] = 0
    expected = model(IMAGE)
    assert not torch.equal(before, expected)
    remove(model, group, dead)
    assert model.inner.out_channels == 6
    torch.testing.assert_close(model(IMAGE), expected)


def test_the_outputs_are_never_pruned_and_couplings_are_found() -> None:
    names = {net: {group.name for group in find_groups(make(net), forward)} for net in NETS}
    assert all("head" not in found for found in names.values())
    stage = next(group for group in find_groups(make("residual"), forward) if group.channels == 12)
    assert {member.place.name for member in stage.members} == {"stem", "bn", "inner", "outer", "short", "head"}
    assert {group.fold for group in find_groups(make("concat"), forward)} == {1, 4}


class Written(nn.Module):
    """A width stands in the code, and a second output is read from the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 4)
        self.free = nn.Linear(4, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.second(torch.relu(self.first(x)))
        hidden = self.third(x.reshape(-1, 12))
        return self.head(torch.relu(self.free(hidden))), hidden


def test_layers_that_cannot_lose_channels_are_left_alone() -> None:
    values = torch.randn(2, 6)
    found = find_groups(Written().eval(), lambda model: model(values))
    assert {group.name for group in found} == {"first", "free"}


def test_tied_and_parametrized_layers_are_left_alone() -> None:
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    tied[2].weight = tied[0].weight
    values = torch.randn(2, 8)
    assert {group.name for group in find_groups(tied.eval(), lambda model: (model(values),))} == {"4"}
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(TaskError, match="no layer of the model can be pruned"):
        find_groups(normed.eval(), lambda model: (model(values),))


def test_frozen_parameters_stay_frozen() -> None:
    model = make("plain")
    model.features.requires_grad_(False)
    for group in find_groups(model, forward):
        remove(model, group, np.array([0]))
    assert not any(parameter.requires_grad for parameter in model.features.parameters())
    assert model.hidden.weight.requires_grad


def test_nothing_to_prune() -> None:
    with pytest.raises(TaskError, match="no layer of the model can be pruned"):
        find_groups(nn.Linear(8, 2).eval(), lambda model: (model(torch.randn(2, 8)),))


def test_a_record_of_another_model_is_refused() -> None:
    model = make("plain")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsError, match=r"features\.9: the model has no such layer"):
        replay(model, [{"name": "features.9", "side": "out", "kept": [0]}])
    with pytest.raises(WeightsError, match=r"channel 40 is to be kept of 12"):
        replay(model, [{"name": "features.0", "side": "out", "kept": [0, 40]}])
    with pytest.raises(WeightsError, match="a Linear has no such channels"):
        replay(model, [{"name": "head", "side": "both", "kept": [0]}])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
