"""What moves the weights."""

from typing import Any

import torch

from headway.train.config import TrainConfig


def adamw_or_sgd(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Biases and norms do not decay: pulling a scale or shift to zero regularises nothing (Goyal et al. 2017, 5.3)."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.dim() < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)
