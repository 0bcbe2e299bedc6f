"""Eager PyTorch as a session: the reference that every variant is compared with.

The one file of this room that imports torch; nothing of the serving half imports it.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from headway.core.errors import TaskError
from headway.core.modules import forward
from headway.core.tensors import DYNAMIC, Array, TensorSpec, from_numpy

_ROWS = 2  # of the zeros that tell what the outputs look like
_OTHER = 32  # stands for a dimension that varies and is not the batch


class TorchEagerSession:
    """A module in evaluation mode, called as PyTorch calls it: no compiler, no graph.

    PyTorch's thread count belongs to the calling thread and outlives a call, so it is set before a run wherever it
    differs, and `close` puts back what the constructor found. Not thread-safe for that reason.

    Args:
        module: put into evaluation mode, and left in it.
        inputs: what `run` expects, in the order in which the module takes them.
        output_names: what the module's outputs are called, in order.
        threads: CPU threads that one run may use.
    """

    thread_safe = False

    def __init__(
        self, module: torch.nn.Module, inputs: tuple[TensorSpec, ...], output_names: Sequence[str], threads: int = 1
    ) -> None:
        self.inputs = inputs
        self._module = module.eval()
        self._output_names = tuple(output_names)
        self._threads = threads
        self._threads_before = torch.get_num_threads()
        self._device = next((p.device for p in module.parameters()), torch.device("cpu"))

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns, found by one run on zeros; only the batch is seen to vary."""
        zeros = {spec.name: np.zeros(_concrete(spec), spec.dtype) for spec in self.inputs}
        batched = all(spec.batched for spec in self.inputs)
        return tuple(
            TensorSpec(
                name=name,
                datatype=from_numpy(value.dtype).name,
                shape=(DYNAMIC, *value.shape[1:]) if batched and value.shape[:1] == (_ROWS,) else value.shape,
            )
            for name, value in self.run(zeros).items()
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. On the CPU nothing is copied on the way in or out, unless an input is read-only or strided.

        Raises:
            TaskError: the module returns something else than tensors, or fewer than were named.
        """
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            tensors = {spec.name: to_torch(inputs[spec.name]).to(self._device) for spec in self.inputs}
            returned = forward(self._module, tensors, self._output_names)
            return {name: _to_numpy(name, value) for name, value in returned.items()}

    def close(self) -> None:
        """Let go of the module and put PyTorch's thread count back."""
        self._module = torch.nn.Identity()
        if torch.get_num_threads() != self._threads_before:
            torch.set_num_threads(self._threads_before)


def to_torch(array: Array) -> torch.Tensor:
    """The array as a tensor that shares its memory; a copy only where PyTorch cannot share it."""
    contiguous = np.ascontiguousarray(array)
    return torch.from_numpy(contiguous if contiguous.flags.writeable else contiguous.copy())


def _to_numpy(name: str, value: object) -> Array:
    if not isinstance(value, torch.Tensor):
        raise TaskError(
            f"the model returns a {type(value).__name__} as {name!r}, not a tensor",
            remedy="Return a tensor, a tuple of tensors, or a mapping of names to tensors.",
        )
    widened = value.float() if value.dtype == torch.bfloat16 else value  # numpy has no bfloat16
    result: Array = widened.cpu().numpy()
    return result


def _concrete(spec: TensorSpec) -> tuple[int, ...]:
    """A shape that fits `spec`."""
    sizes = [_OTHER if size == DYNAMIC else size for size in spec.shape]
    return (_ROWS, *sizes[1:]) if spec.batched else tuple(sizes)
