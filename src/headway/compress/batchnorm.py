"""Batch norm's running statistics, made anew for a network whose channels have changed."""

import numpy as np
import torch
from torch import nn

from headway.core.modules import forward
from headway.tasks import Task

_ROWS = 2048  # of the training part


def recalibrate(model: nn.Module, task: Task, seed: int, batch_size: int) -> None:
    """Replace running means and variances by averages over training rows, in place; weights stay as they are.

    A short fine-tuning moves weights faster than statistics that forget 10% a step can follow ("precise" batch norm:
    Wu and Johnson 2021, "Rethinking Batch in BatchNorm", section 3).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    part = task.parts.train
    rows = np.random.default_rng(seed).permutation(len(part))[:_ROWS]
    if not norms or len(rows) < 2:
        return
    model.eval()
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average of all batches
            norm.train()
        with torch.no_grad():
            for chosen in np.array_split(rows, max(1, len(rows) // batch_size)):
                inputs, _ = part.batch(np.sort(chosen))
                tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
                forward(model, tensors, task.output_names)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
