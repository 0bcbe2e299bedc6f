"""Residual networks in plain torch (He et al. 2015, "Deep Residual Learning for Image Recognition").

The stem is the one for small images: a 3x3 convolution of stride 1 and no pooling (section 4.2 of the paper).
"""

from collections.abc import Sequence

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added; a 1x1 convolution fits it where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stages of `BasicBlock`s; each stage after the first halves the picture and doubles the channels.

    Args:
        blocks: blocks in each stage.
        width: channels of the first stage.
        num_classes: logits a row.
        in_channels: of the picture.
    """

    def __init__(self, blocks: Sequence[int], width: int, *, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                out_channels, stride = width * 2**stage, 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(channels, out_channels, stride))
                channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> logits, [N, num_classes]."""
        features = self.pool(self.stages(self.stem(image)))
        return self.classifier(features.flatten(1))  # type: ignore[no-any-return]


def resnet18(width: int = 64, *, num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-18: four stages of two blocks; 11.2M parameters at width 64."""
    return ResNet((2, 2, 2, 2), width, num_classes=num_classes, in_channels=in_channels)
