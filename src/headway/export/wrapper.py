"""A module whose inputs and outputs are known by name, as a plain tuple that a tracer can follow."""

import torch

from headway.core.modules import forward


class ByName(torch.nn.Module):
    """Calls `model` with its inputs in order and returns the named outputs as a tuple, whatever `model` returns."""

    def __init__(self, model: torch.nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._inputs, self._outputs = inputs, outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, in the order of their names."""
        return tuple(forward(self.model, dict(zip(self._inputs, inputs, strict=True)), self._outputs).values())
