"""Forms of a graph, each written, run over selection data and compared with FP32; nothing is kept but figures.

Memory is bounded: two sessions at a time, and outputs of as many rows as 256 MB hold.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headway.compress import qdq
from headway.compress.calibration import Range
from headway.compress.quantize import match
from headway.compress.step import StepContext
from headway.core.errors import TaskError
from headway.core.files import make_folder
from headway.core.tensors import Array
from headway.measure.latency import interleave
from headway.runtimes.onnx_runtime import OnnxRuntime, OnnxSession
from headway.tasks.parts import Indices
from headway.tasks.scoring import joined, score_rows

if TYPE_CHECKING:
    import onnx

_MEMORY = 256e6  # bytes of outputs that are compared
_BATCH = 32
SECONDS = 0.2  # of a latency comparison
_LEAST_ROUNDS, _MOST_ROUNDS = 15, 200
_WHERE = "the selection part"


@dataclass(frozen=True)
class Scored:
    """A form's figures on selection data.

    Attributes:
        score: the metric.
        error: how far the outputs are from FP32's, as a share of them: norm of the difference by norm.
    """

    score: float
    error: float


class Trials:
    """Tries forms of one graph.

    Args:
        model: as `qdq.prepare` gives it.
        ranges: of every activation that a form may quantize.
        whole: the form that others are timed against.
        rows: of the selection part, at most.
        context: where the step works; candidates are written into its folder.

    Raises:
        TaskError: FP32 itself has no score above 0, or the task's inputs do not fit the graph.
    """

    def __init__(
        self, model: "onnx.ModelProto", ranges: Mapping[str, Range], whole: qdq.Form, rows: int, context: StepContext
    ) -> None:
        self._model, self._ranges, self._context = model, ranges, context
        self._part, self._metric = context.task.parts.selection, context.task.metric
        make_folder(context.folder)
        self._file = context.folder / "candidate.onnx"
        self._file.write_bytes(model.SerializeToString())
        original = self._load()
        self._single = match(original.inputs, self._part.batch(np.arange(1))[0])
        size = sum(value.nbytes for value in original.run(self._single).values())
        most = int(np.clip(_MEMORY // max(1, size), 1, rows))
        self.rows: Indices = np.sort(np.random.default_rng(0).permutation(len(self._part))[:most])
        self._want, targets = self._answers(original)
        original.close()
        self.original = self._mean(self._want, targets)
        if self.original <= 0:
            raise TaskError(
                f"no share of {self._metric.name} can be kept: the FP32 graph has {self.original:.4g} on {_WHERE}",
                where="quantize.mixed",
                remedy="Check the task's targets and metric.",
            )
        self._whole = self._written(whole)

    @cached_property
    def milliseconds(self) -> float:
        """Median of a run of one row of the whole form."""
        return float(np.median(self._time(self._whole)["whole"]))

    def score(self, form: qdq.Form) -> Scored:
        """The form's figures.

        Raises:
            TaskError: the task's metric fails.
        """
        session = self._written(form)
        try:
            have, targets = self._answers(session)
        finally:
            session.close()
        return Scored(self._mean(have, targets), _distance(self._want, have))

    def timed_score(self, form: qdq.Form) -> tuple[Scored, float]:
        """The form's figures, and the seconds that they took."""
        began = time.monotonic()
        return self.score(form), time.monotonic() - began

    def slower_ms(self, form: qdq.Form) -> float:
        """Milliseconds that a run of one row takes longer than in the whole form; measured in turn, so that either
        meets the same disturbances.
        """
        session = self._written(form)
        try:
            taken = self._time(session)
        finally:
            session.close()
        return float(np.median(np.median(taken["other"], axis=1) - np.median(taken["whole"], axis=1)))

    def close(self) -> None:
        """Free the session and take the last candidate away."""
        self._whole.close()
        self._file.unlink(missing_ok=True)

    def _time(self, other: OnnxSession) -> dict[str, "np.typing.NDArray[np.float64]"]:
        return interleave(
            {"whole": lambda: self._whole.run(self._single), "other": lambda: other.run(self._single)},
            seconds=SECONDS,
            least_rounds=_LEAST_ROUNDS,
            most_rounds=_MOST_ROUNDS,
        )

    def _written(self, form: qdq.Form) -> OnnxSession:
        qdq.write(self._model, self._file, self._ranges, form)
        return self._load()

    def _load(self) -> OnnxSession:
        return OnnxRuntime().load(Path(self._file), threads=self._context.threads)

    def _mean(self, outputs: Mapping[str, Array], targets: Array) -> float:
        return float(score_rows(self._metric, outputs, targets, _WHERE).mean())

    def _answers(self, session: OnnxSession) -> tuple[dict[str, Array], Array]:
        found, targets = [], []
        for chosen in np.split(self.rows, range(_BATCH, len(self.rows), _BATCH)):
            inputs, wanted = self._part.batch(chosen)
            found.append(session.run(match(session.inputs, inputs)))
            targets.append(wanted)
        return joined(found), np.concatenate(targets)


def _distance(want: Mapping[str, Array], have: Mapping[str, Array]) -> float:
    """Norm of the difference by the norm of `want`; the largest of all float outputs."""
    shares = [0.0]
    for name, value in want.items():
        if value.dtype.kind == "f":
            wide, near = value.astype(np.float64), have[name].astype(np.float64)
            shares.append(float(np.linalg.norm(near - wide) / max(float(np.linalg.norm(wide)), 1e-30)))
    return max(shares)
