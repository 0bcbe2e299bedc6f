"""A plain convolutional network: conv, batch norm, ReLU, in the order of VGG (Simonyan and Zisserman 2014)."""

import torch
from torch import nn


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H, W]."""
        return self.relu(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class ConvNet(nn.Module):
    """Six blocks in three sizes of picture, then the mean over the picture and one linear layer.

    Args:
        width: channels of the first blocks; the last have four times as many.
        num_classes: logits a row.
        in_channels: of the picture.
    """

    def __init__(self, width: int = 64, *, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvBlock(in_channels, width),
            ConvBlock(width, width),
            ConvBlock(width, 2 * width),
            nn.MaxPool2d(2),
            ConvBlock(2 * width, 2 * width),
            ConvBlock(2 * width, 4 * width),
            nn.MaxPool2d(2),
            ConvBlock(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> logits, [N, num_classes]."""
        return self.classifier(self.features(image).flatten(1))  # type: ignore[no-any-return]
