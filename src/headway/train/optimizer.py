"""What moves the weights."""

from typing import Any

import torch

from headway.train.config import TrainConfig

_FUSED = ("cpu", "cuda")  # where PyTorch has such kernels, as it has for others that nobody here could try


def adamw_or_sgd(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Biases and norms do not decay: pulling a scale or shift to zero regularises nothing (Goyal et al. 2017, 5.3)."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.dim() < 2], "weight_decay": 0.0},
    ]
    # One kernel for all of a step: a quarter of the time, of which small networks have little else (1.0 to 0.2 ms).
    # SGD's does not know tensors in shards.
    sharded = config.optimizer == "sgd" and any(hasattr(parameter, "full_tensor") for parameter in learning)
    fused = (all(parameter.device.type in _FUSED for parameter in learning) and not sharded) or None
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def with_gradients(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """What it moves and has a gradient for; without going through the model, which takes longer than their norm."""
    return [
        parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None
    ]
