"""What goes: as near to the target as widths in blocks allow, the least important first."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from headway.compress.channels import Budget, Group
from headway.compress.graph import find_groups
from headway.compress.selection import select, smallest

WIDTHS = (24, 32, 40)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 4)).eval()


@pytest.fixture(scope="module")
def found(model: nn.Module) -> list[Group]:
    image = torch.randn(2, 3, 6, 6)
    return find_groups(model, lambda module: (module(image),))


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.3, 0.99), round_to=st.sampled_from([1, 4, 8, 16]), seed=st.integers(0, 2**32 - 1))
def test_widths_are_multiples_the_target_is_met_and_the_least_important_go(
    model: nn.Module, found: list[Group], share: float, round_to: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    scores = [draw.random(group.channels) for group in found]
    budget, least = Budget(model, found), {group.name: 4 for group in found}
    whole = budget.total
    target = round(share * whole)
    blocks = {group.name: round_to for group in found}
    chosen = select(budget, found, scores, target, blocks=blocks, least=least)
    largest = max(Budget(model, found).cost(group, round_to) for group in found)
    floor = smallest(Budget(model, found), found, blocks=blocks, least=least)
    assert budget.total <= max(target + largest / 2, floor)
    assert budget.total >= target - largest
    for group, gone in chosen:
        left = group.channels - len(gone)
        assert left % round_to == 0
        assert left >= 4
        values = scores[found.index(group)]
        assert values[gone].max() <= np.delete(values, gone).min()


def test_importance_is_weighed_against_the_parameters_freed(model: nn.Module, found: list[Group]) -> None:
    scores = [np.ones(group.channels) for group in found]
    budget = Budget(model, found)
    blocks = {group.name: 8 for group in found}
    costs = {group.name: budget.cost(group, 8) for group in found}
    chosen = select(budget, found, scores, budget.total - 10, blocks=blocks, least=blocks)
    assert not chosen or chosen[0][0].name in costs
    dearest = max(costs, key=lambda name: costs[name])
    chosen = select(Budget(model, found), found, scores, budget.total - costs[dearest], blocks=blocks, least=blocks)
    assert [group.name for group, _ in chosen] == [dearest]
