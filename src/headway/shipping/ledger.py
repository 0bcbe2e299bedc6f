"""What a step's record says beside what replays it: accuracy before and after, and time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headway.compress.quantize import match
from headway.core import plugins
from headway.core.files import write_atomic
from headway.core.tensors import Array
from headway.runtimes.runtime import DEFAULT
from headway.tasks import Task
from headway.tasks.parts import Subset
from headway.tasks.scoring import joined, score_rows

if TYPE_CHECKING:
    import torch

_ROWS = 2048  # of the selection part, evenly spaced: the ledger shows where accuracy goes, the gate judges on test data
_BATCH = 64
_WHERE = "the selection part"


class Scorer:
    """Scores what a step takes and what it gives on selection data.

    Args:
        task: data and metric.
        threads: CPU threads of a graph's run.
    """

    def __init__(self, task: Task, threads: int) -> None:
        self._task, self._threads = task, threads

    def module(self, model: "torch.nn.Module") -> float:
        """The metric of a torch module, in eager PyTorch."""
        from headway.train.predict import predict

        return self._mean(*predict(model, self._part(), self._task.output_names))

    def graph(self, file: Path, runtime: str = DEFAULT) -> float:
        """The metric of a model file, in the runtime that it is for."""
        session = plugins.load("headway.runtimes", runtime)().load(file, threads=self._threads)
        part = self._part()
        found, targets = [], []
        try:
            batches = np.split(np.arange(len(part)), range(_BATCH, len(part), _BATCH))
            for inputs, wanted in map(part.batch, batches):
                found.append(session.run(match(session.inputs, inputs)))
                targets.append(wanted)
        finally:
            session.close()
        return self._mean(joined(found), np.concatenate(targets))

    def _part(self) -> Subset:
        part = self._task.parts.selection
        return Subset(part, np.linspace(0, len(part) - 1, min(_ROWS, len(part))).astype(np.int64))

    def _mean(self, outputs: dict[str, Array], targets: Array) -> float:
        return float(score_rows(self._task.metric, outputs, targets, _WHERE).mean())


@contextmanager
def spent(folder: Path) -> Iterator[Callable[[], float]]:
    """Gives what tells the seconds so far, those of runs that were interrupted (not killed) in `folder` included."""
    file, began = folder / "seconds", time.monotonic()
    before = float(file.read_text(encoding="utf-8")) if file.is_file() else 0.0

    def total() -> float:
        return before + time.monotonic() - began

    try:
        yield total
    finally:
        write_atomic(file, f"{total():.3f}")
