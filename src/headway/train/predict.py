"""A module's answers over a whole part, and what the metric makes of them."""

from collections.abc import Sequence

import numpy as np
import torch

from headway.core.errors import DataError
from headway.core.modules import forward
from headway.core.tensors import Array
from headway.tasks import Task
from headway.tasks.parts import Part
from headway.tasks.scoring import joined


def predict(
    model: torch.nn.Module, part: Part, output_names: Sequence[str], batch_size: int = 256
) -> tuple[dict[str, Array], Array]:
    """The module's outputs over every row of `part`, in evaluation mode and without gradients.

    The module stays on its device and is put back into the mode it was in.

    Returns:
        Outputs by name, each [N, ...] (floats as float32), and targets, [N, ...].

    Raises:
        DataError: the part is empty.
        TaskError: the module returns fewer outputs than `output_names`, or some that vary in shape.
    """
    if len(part) == 0:
        raise DataError("the part is empty")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    collected: list[dict[str, Array]] = []
    targets: list[Array] = []
    try:
        with torch.inference_mode():
            for rows in np.split(np.arange(len(part)), range(batch_size, len(part), batch_size)):
                inputs, wanted = part.batch(rows)
                tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
                outputs = forward(model, tensors, output_names)
                collected.append({name: _array(value) for name, value in outputs.items()})
                targets.append(wanted)
    finally:
        model.train(training)
    return joined(collected), np.concatenate(targets)


def _array(value: torch.Tensor) -> Array:
    array: Array = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return array


def score(model: torch.nn.Module, task: Task, part: Part) -> float:
    """The task's metric over `part`: the mean of its rows' scores."""
    outputs, targets = predict(model, part, task.output_names)
    return float(task.metric.rows(outputs, targets).mean())
