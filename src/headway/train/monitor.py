"""What may watch a training run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from headway.train.result import Epoch


@dataclass(frozen=True)
class Finding:
    """Something that is odd about a run.

    Attributes:
        kind: "exploding", "vanishing", "dead", "constant", "scale", "saturated" or "not finite".
        layer: module or tensor, by its name in the model.
        step: from 1; 0 is before the first.
        figure: what was measured; `message` says of what.
        message: what was seen, in one sentence.
        advice: what to try.
    """

    kind: str
    layer: str
    step: int
    figure: float
    message: str
    advice: str

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class StepDone:
    """What one optimizer step came to; `step` counts from 1, `norm` is the gradient's before clipping.

    `waited` is how many of `seconds` went by until its batches were there; `skipped` steps left the weights as they
    were.
    """

    step: int
    loss: float
    norm: float
    lr: float
    rows: int
    seconds: float = 0.0
    waited: float = 0.0
    skipped: bool = False


class Monitor:
    """Is told of everything that `fit` does. This one does nothing with it: override what matters.

    What a monitor raises ends the run; the weights are then those of the step before.
    """

    def started(self, model: torch.nn.Module, step: int, forward: Callable[[], object]) -> None:
        """Before the first step of this process, which is number `step` (from 0); `forward` runs the first batch."""

    def after_backward(self, step: int, loss: float, norm: float) -> bool:
        """Gradients are there, finite and not yet clipped; True leaves the step out."""
        return False

    def after_step(self, done: StepDone) -> None:
        """A step is done, or was left out."""

    def after_epoch(self, step: int, epoch: Epoch) -> None:
        """An epoch is done, and `step` steps."""

    def measured(self, step: int, tensors: dict[str, tuple[float, float, float]]) -> None:
        """Health looked at every tensor: (gradient's norm, mean, standard deviation) by name."""

    def found(self, finding: Finding) -> None:
        """Health found something."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this monitor, as plain JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
