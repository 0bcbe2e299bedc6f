"""The residual networks have the published shape."""

import pytest
import torch

from headway.tasks.cnn import ConvNet
from headway.tasks.resnet import ResNet, resnet18


def test_resnet18_has_the_papers_size() -> None:
    model = resnet18(num_classes=10, in_channels=3)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962  # He et al.'s, with a 3x3 stem and ten classes
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 17


@pytest.mark.parametrize("side", [8, 28, 33])
def test_any_size_of_picture_gives_logits(side: int) -> None:
    model = ResNet((1, 2, 1), 4, num_classes=7, in_channels=2).eval()
    assert model(torch.rand(3, 2, side, side)).shape == (3, 7)
    assert ConvNet(4, num_classes=7, in_channels=2).eval()(torch.rand(3, 2, side, side)).shape == (3, 7)
