"""Writes a training run into its record, and where else the recipe asks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from headway.runs.record import Run
from headway.train.monitor import Finding, Monitor, StepDone
from headway.train.result import Epoch

_LINES = 1000  # before lines begin to stand for twice as many steps


class RunLog(Monitor):
    """One line a step for the first thousand; then one for two steps, then for four, and so on.

    A line has loss (mean over the rows), norm (of the gradient, the largest), lr, rows_s, wait (share of the time that
    went by until batches were there) and skipped steps.

    Args:
        run: the record.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stride, self._written = 1, 0
        self._steps: list[StepDone] = []

    def after_step(self, done: StepDone) -> None:
        """Gather the step, and write a line when it is due."""
        self._steps.append(done)
        if len(self._steps) >= self._stride:
            self._write()

    def after_epoch(self, step: int, epoch: Epoch) -> None:
        """A line for the epoch."""
        if self._steps:
            self._write()
        self._run.metrics(step, {"epoch": epoch.epochs, "epoch_loss": epoch.loss})

    def measured(self, step: int, tensors: dict[str, tuple[float, float, float]]) -> None:
        """Every tensor's norm, mean and standard deviation."""
        self._run.tensors(step, tensors)

    def found(self, finding: Finding) -> None:
        """Add it to the record at once: the run may not live long."""
        self._run.found(finding.document())

    def state(self) -> dict[str, Any]:
        """Which run a checkpoint is of."""
        return {"run": self._run.record.id}

    def restore(self, state: dict[str, Any]) -> None:
        """Note which run this one goes on from."""
        if state.get("run") != self._run.record.id:  # or processes were started again within this one
            self._run.record.continues = state.get("run")
            self._run.save()

    def _write(self) -> None:
        steps, self._steps = self._steps, []
        finite = [step for step in steps if not step.skipped] or steps
        rows = sum(step.rows for step in finite)
        seconds = max(1e-9, sum(step.seconds for step in steps))
        self._run.metrics(
            steps[-1].step,
            {
                "loss": sum(step.loss * step.rows for step in finite) / rows,
                "norm": max(step.norm for step in finite),
                "lr": steps[-1].lr,
                "rows_s": sum(step.rows for step in steps) / seconds,
                "wait": sum(step.waited for step in steps) / seconds,
                "skipped": sum(step.skipped for step in steps),
            },
        )
        self._written += 1
        if self._written % _LINES == 0:
            self._stride *= 2


@contextmanager
def writers(names: Sequence[str], run: Run | None) -> Iterator[list[Monitor]]:
    """The record's own writer, and those of `train.log`; closed with the block. None without a record.

    Raises:
        MissingDependencyError: what one of them needs is not installed.
    """
    if run is None:
        yield []
        return
    with ExitStack() as stack:
        found: list[Monitor] = [RunLog(run)]
        if "tensorboard" in names:
            from headway.train.tensorboard import TensorBoard

            board = TensorBoard(run.folder / "tensorboard")
            stack.callback(board.close)
            found.append(board)
        yield found
