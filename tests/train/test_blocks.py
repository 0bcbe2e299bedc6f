"""Activations that are computed anew change nothing but memory."""

from typing import Literal

import pytest
import torch
from tests.train.tiny import Block
from torch import nn

from headway.core.errors import ConfigError
from headway.tasks.resnet import ResNet
from headway.train.blocks import blocks, recomputed


def _saved(model: nn.Module, rows: torch.Tensor) -> int:
    """Bytes that one forward pass keeps for the backward pass, and the backward pass."""
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = model(rows).square().mean()
    loss.backward()
    return sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize("kind", ["full", "selective"])
@pytest.mark.parametrize("name", ["perceptron", "resnet"])
def test_gradients_and_statistics_are_the_same_bits(name: str, kind: Literal["full", "selective"]) -> None:
    def made() -> tuple[nn.Module, torch.Tensor]:
        torch.manual_seed(0)
        if name == "resnet":
            return ResNet((2, 2), 8), torch.rand(4, 1, 12, 12)
        return nn.Sequential(nn.Linear(9, 16), nn.Sequential(*(Block(16, 0.2) for _ in range(8)))), torch.rand(64, 9)

    (plain, rows), (anew, _) = made(), made()
    most = _saved(plain, rows)
    with recomputed(anew, kind):
        least = _saved(anew, rows)
    assert least < (0.4 if kind == "full" and name == "perceptron" else 1) * most
    for one, other in zip(plain.parameters(), anew.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)
    for one, other in zip(plain.buffers(), anew.buffers(), strict=True):
        assert torch.equal(one, other)
    assert list(plain.state_dict()) == list(anew.state_dict())
    assert not any("forward" in vars(module) for module in anew.modules())


def test_blocks_are_found_inside_stages() -> None:
    stages = nn.Sequential(*(nn.Sequential(Block(4, 0), Block(4, 0)) for _ in range(3)))
    assert len(blocks(nn.ModuleDict({"stem": nn.Linear(4, 4), "stages": stages}))) == 6


def test_a_model_without_blocks_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="no repeated blocks") as caught, recomputed(nn.Linear(2, 2), "full"):
        pass
    assert caught.value.where == "train.checkpoint_activations"
