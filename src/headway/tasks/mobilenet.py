"""MobileNetV2 in plain torch (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks").

Parameters are called as torchvision calls them, so that weights trained there fit.
"""

from pathlib import Path

import torch
from torch import nn

from headway.core.errors import FormatError, WeightsError

# Table 2 of the paper: expansion, channels, blocks, stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _layer(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU6."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Widens with a 1x1 convolution, filters each channel alone, and narrows; the input is added where it fits."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.adds = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *([_layer(in_channels, hidden, 1)] if expansion != 1 else []),
            _layer(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / stride, W / stride]."""
        return x + self.conv(x) if self.adds else self.conv(x)  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """17 inverted residuals between two convolutions; 2.2M parameters at width 1 without the classifier.

    Args:
        num_classes: logits a row.
        width: factor of every number of channels; they are then multiples of 8.
        dropout: before the classifier.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        channels = _eighths(32 * width)
        features: list[nn.Module] = [_layer(3, channels, 3, stride=2)]
        for expansion, out, blocks, stride in _STAGES:
            for block in range(blocks):
                wide = _eighths(out * width)
                features.append(InvertedResidual(channels, wide, stride if block == 0 else 1, expansion))
                channels = wide
        last = _eighths(1280 * max(1.0, width))
        features.append(_layer(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> logits, [N, num_classes]."""
        return self.classifier(self.features(image).mean((2, 3)))  # type: ignore[no-any-return]


def mobilenet_v2(num_classes: int, width: float = 1.0, weights: Path | None = None) -> MobileNetV2:
    """MobileNetV2, its features from a safetensors file where there is one; the classifier is always new.

    Raises:
        WeightsError: the file is not there, or does not fit.
        FormatError: it is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    model = MobileNetV2(num_classes, width)
    if weights is not None:
        try:
            given = load(weights.read_bytes())
        except OSError as error:
            raise WeightsError(f"cannot be read: {error.strerror}", where=str(weights)) from error
        except SafetensorError as error:
            raise FormatError(
                f"not a safetensors file: {error}", where=str(weights), remedy=f"headway convert {weights}"
            ) from error
        prefix = "features."
        features = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        try:
            model.features.load_state_dict(features)
        except RuntimeError as error:
            raise WeightsError(f"does not fit MobileNetV2 of width {width}: {error}", where=str(weights)) from error
    return model


def _eighths(channels: float) -> int:
    """The nearest multiple of 8, and not less than 90% of what was asked."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8
