"""One candidate of a search, built and measured: on selection data, never on test data."""

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from headway.bundles.manifest import Accuracy
from headway.compress.step import JsonRecord
from headway.core import machine
from headway.core.errors import DataError, FormatError, TaskError, WeightsError
from headway.core.files import digest_file, write_atomic
from headway.core.progress import SILENT
from headway.measure.accuracy import Rows, compare
from headway.measure.latency import interleave, speedup, summarise
from headway.shipping.build import Builder
from headway.shipping.evaluate import Original, Subject, open_subjects, scores, single_runs, usable_runtimes
from headway.shipping.ledger import spent
from headway.shipping.plan import Plan
from headway.tasks.parts import Subset

_ROWS = 2048  # of the selection part, evenly spaced, as in the ledger
_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 1.0, 30, 300
_METHOD = 1  # raised when figures come about in another way
_ORIGINAL = ""
_WHERE = "the selection part"


class Figures(BaseModel):
    """What was measured of a candidate on selection data.

    Attributes:
        speedup: [low, median, high] of the ratio to the original.
        p99_ms: of a few hundred runs: an estimate, and no proof.
        sha256: of its file.
    """

    accuracy: Accuracy
    speedup: tuple[float, float, float]
    p99_ms: float
    size_mb: float
    size_ratio: float
    precision: str
    runtime: str
    sha256: str


class Result(BaseModel):
    """What came of a candidate, and the seconds that building and measuring it took; without figures it failed."""

    figures: Figures | None = None
    failed: str = ""
    seconds: float = 0.0


class Bench:
    """Builds and measures candidates; what was measured once is taken from the store.

    Args:
        builder: of the recipe.
        original: what candidates are compared with.
        confidence: of each end of each interval on its own.
    """

    def __init__(self, builder: Builder, original: Original, confidence: float) -> None:
        self._builder, self._original, self._confidence = builder, original, confidence
        self._task, self._target = builder.task, builder.recipe.config.target

    def result(self, plan: Plan) -> Result:
        """What comes of a candidate.

        Raises:
            TaskError: the task's metric fails on the original itself.
            DataError: the original answers NaN, or is never right.
        """

        def measure(out: Path, scratch: Path) -> None:
            self._original_rows  # noqa: B018  (what the original cannot do is no candidate's failure)
            with spent(scratch) as seconds:
                try:
                    found = Result(figures=self._figures(plan))
                except (TaskError, DataError, WeightsError, FormatError) as error:
                    found = Result(failed=str(error).partition("\n")[0])
                found.seconds = round(seconds(), 3)
            write_atomic(out / "trial.json", found.model_dump_json())

        folder = self._builder.store.stage("trial", self._key(plan), measure)
        return Result.model_validate_json((folder / "trial.json").read_text(encoding="utf-8"))

    def _figures(self, plan: Plan) -> Figures:
        """Of the candidate on the runtime that runs it fastest."""
        built = self._builder.build(plan)
        with ExitStack() as stack:
            subjects = open_subjects([built], usable_runtimes(self._target), self._target, stack)
            sessions = {_ORIGINAL: self._original.session, **{id_: s.session for id_, s in subjects.items()}}
            taken = interleave(
                single_runs(sessions, self._part),
                seconds=_SECONDS,
                least_rounds=_LEAST_ROUNDS,
                most_rounds=_MOST_ROUNDS,
            )
            ratios = {id_: speedup(taken[_ORIGINAL], taken[id_], self._confidence) for id_ in subjects}
            fastest = max(subjects, key=lambda id_: ratios[id_][1])
            rows = self._rows(subjects[fastest])
        size_mb = built.file.stat().st_size / 1e6
        return Figures(
            accuracy=compare(
                self._original_rows, rows, metric=self._task.metric.name, confidence=self._confidence, part=_WHERE
            ),
            speedup=ratios[fastest],
            p99_ms=summarise(taken[fastest], self._confidence).p99,
            size_mb=size_mb,
            size_ratio=size_mb / (self._original.file.stat().st_size / 1e6),
            precision=built.precision,
            runtime=subjects[fastest].runtime,
            sha256=digest_file(built.file),
        )

    def _rows(self, subject: Subject) -> Rows:
        return scores(subject.session, self._task, self._part, SILENT, f"{_WHERE}: {subject.built.plan.id}")

    @cached_property
    def _part(self) -> Subset:
        part = self._task.parts.selection
        return Subset(part, np.linspace(0, len(part) - 1, min(_ROWS, len(part))).astype(np.int64))

    @cached_property
    def _original_rows(self) -> Rows:
        title = f"{_WHERE}: {self._original.name}"
        found = scores(self._original.session, self._task, self._part, self._builder.progress, title)
        compare(found, found, metric=self._task.metric.name, confidence=self._confidence, part=_WHERE)
        return found

    def _key(self, plan: Plan) -> JsonRecord:
        return {
            **self._builder.key(plan),
            "original": digest_file(self._original.file),
            "confidence": self._confidence,
            "method": _METHOD,
            "machine": machine.here().model_dump(mode="json"),
        }
