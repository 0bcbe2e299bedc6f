"""The loss of a batch: the user's model and loss, with what they raise told as theirs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from headway.core.errors import DataError, TaskError
from headway.core.modules import forward
from headway.tasks import Task
from headway.tasks.factory import user_error
from headway.train.precision import Precision


class Objective:
    """The loss of a task's model.

    Args:
        task: its output names and loss.
        net: the model as it is called, which may be a wrapper that shares gradients.
        precision: where and in what type it computes.
        channels_last: whether pictures are laid out so.
    """

    def __init__(self, task: Task, net: torch.nn.Module, precision: Precision, *, channels_last: bool) -> None:
        self._task, self._net, self._precision, self._channels_last = task, net, precision, channels_last

    def __call__(self, inputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """The mean over the rows, without dimensions.

        Raises:
            TaskError: the user's code raises, or the loss is none.
        """
        tensors = {name: self._place(value) for name, value in inputs.items()}
        wanted = targets.to(self._precision.device, non_blocking=True)
        with self._precision.autocast():
            outputs = users("the model", forward, self._net, tensors, self._task.output_names)
        outputs = {name: value.float() if value.is_floating_point() else value for name, value in outputs.items()}
        loss = users("the loss", self._task.loss or cross_entropy, outputs, wanted)
        if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
            got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise TaskError(f"the loss must be a tensor without dimensions, the mean over the rows; got {got}")
        return loss

    def _place(self, value: torch.Tensor) -> torch.Tensor:
        value = value.to(self._precision.device, non_blocking=True)  # without waiting where it is page-locked
        return (
            value.contiguous(memory_format=torch.channels_last) if self._channels_last and value.dim() == 4 else value
        )


def cross_entropy(outputs: Mapping[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """The loss of a task that names none: of the first output, against whole numbers of classes."""
    return functional.cross_entropy(next(iter(outputs.values())), targets.long())


def users(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call the user's code and report what it raises as theirs."""
    try:
        return call(*arguments)
    except (TaskError, DataError):
        raise
    except Exception as error:
        raise user_error(what, error) from error
