"""Writes a training run for TensorBoard: `train.log: [tensorboard]`."""

from pathlib import Path
from typing import TYPE_CHECKING

from headway.core import plugins
from headway.train.monitor import Finding, Monitor, StepDone
from headway.train.result import Epoch

if TYPE_CHECKING:
    pass


class TensorBoard(Monitor):
    """Scalars by step: loss, gradient norm, rate, rows a second, share of waiting; each tensor's gradient, mean
    and deviation at a look.

    Args:
        folder: where the event files go; `tensorboard --logdir` takes it.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise plugins.missing("tensorboard", needed_by="train.log", extra="tensorboard") from error
        self._writer: SummaryWriter = SummaryWriter(str(folder))

    def after_step(self, done: StepDone) -> None:
        """One point on each curve."""
        values = {"loss": done.loss, "gradient norm": done.norm, "lr": done.lr, "rows/s": done.rows / done.seconds}
        values["wait"] = done.waited / done.seconds
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, done.step)

    def after_epoch(self, step: int, epoch: Epoch) -> None:
        """The epoch's loss; and everything is on the disk."""
        self._writer.add_scalar("epoch/loss", epoch.loss, step)
        self._writer.flush()

    def measured(self, step: int, tensors: dict[str, tuple[float, float, float]]) -> None:
        """Three curves a tensor."""
        for name, row in tensors.items():
            for figure, value in zip(("gradient norm", "mean", "deviation"), row, strict=True):
                self._writer.add_scalar(f"{name}/{figure}", value, step)

    def found(self, finding: Finding) -> None:
        """As a text."""
        self._writer.add_text("findings", f"{finding.layer}: {finding.message}", finding.step)

    def close(self) -> None:
        """Write what is left; the writer's thread ends."""
        self._writer.close()
