"""Measures every variant beside the original, in one run on one machine."""

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from headway.bundles.golden import Sample, errors
from headway.bundles.manifest import Latency, Scorecard
from headway.core import machine, plugins
from headway.core.errors import DataError, MissingDependencyError
from headway.core.progress import Progress
from headway.core.tensors import DYNAMIC, Array, TensorSpec, from_numpy
from headway.measure.accuracy import Rows, compare
from headway.measure.latency import Milliseconds, interleave, rounds_for_p99, speedup, summarise
from headway.measure.memory import peak_memory_mb
from headway.runtimes.runtime import DEFAULT, Runtime, Session
from headway.shipping.build import Built
from headway.shipping.recipe import Target
from headway.tasks import Task
from headway.tasks.parts import Part
from headway.tasks.scoring import joined, score_rows

EAGER, FILE = "eager PyTorch", "the given ONNX file"
_BATCH = 64  # rows a run while predicting
_THROUGHPUT_BATCH = 32
_LATENCY_ROWS = 64  # test rows that single runs go round
_ERROR_FACTOR = 2.0  # of the error seen here; and of the largest output a share, for which see `_tolerance`
METHOD = 3  # raised when figures come about in another way, so that none from before are taken from the store
_ORIGINAL = ""  # among names of variants, which are never empty


class Reference(BaseModel):
    """The original's own figures."""

    name: str
    accuracy: float
    latency_ms: Latency
    throughput: float
    size_mb: float


class OverParent(BaseModel):
    """Speed beside the variant that this one was made from: low, median and high of the ratio, as in a scorecard."""

    parent: str
    speedup: tuple[float, float, float]


class Evaluation(BaseModel):
    """What was measured, by variant id."""

    reference: Reference
    over_parent: dict[str, OverParent]
    cards: dict[str, Scorecard]
    tolerances: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Original:
    """What variants are compared with: the session, its name in reports, and the file that sizes are compared with."""

    session: Session
    name: str
    file: Path


@dataclass(frozen=True)
class Subject:
    """A variant on one runtime."""

    built: Built
    runtime: str
    session: Session


def specs(task: Task) -> tuple[TensorSpec, ...]:
    """The task's inputs, as its data shows them; the first dimension is the batch, and others vary as it declares."""
    inputs, _ = task.parts.test.batch(np.arange(1))
    found = []
    for name, value in inputs.items():
        dims = {0: "batch", **task.varying.get(name, {})}
        shape = tuple(DYNAMIC if axis in dims else size for axis, size in enumerate(value.shape))
        names = tuple(dims.get(axis, "") for axis in range(value.ndim))
        found.append(TensorSpec(name=name, datatype=from_numpy(value.dtype).name, shape=shape, dims=names))
    return tuple(found)


def predict(session: Session, part: Part, progress: Progress, title: str) -> tuple[dict[str, Array], Array]:
    """Outputs by name and targets over a whole part, [len(part), ...] each."""
    outputs: list[dict[str, Array]] = []
    targets: list[Array] = []
    with progress.work(title, len(part)) as bar:
        for rows in np.array_split(np.arange(len(part)), range(_BATCH, len(part), _BATCH)):
            inputs, wanted = part.batch(rows)
            outputs.append(session.run(inputs))
            targets.append(wanted)
            bar.advance(len(rows))
    return joined(outputs), np.concatenate(targets)


def golden(session: Session, part: Part) -> tuple[Sample, ...]:
    """Inputs from all over the test part with the original's answers: four single rows and a batch of eight."""
    rows = np.linspace(0, len(part) - 1, 12).astype(int)
    groups = [*rows[:4, None], rows[4:]]
    return tuple(Sample(inputs, session.run(inputs)) for inputs, _ in (part.batch(group) for group in groups))


def usable_runtimes(target: Target) -> list[Runtime]:
    """What variants are tried on: what the recipe names, else all that works on its devices.

    Raises:
        ConfigError: the recipe names a runtime that nobody offers.
        MissingDependencyError: it names one that does not work here, or none does.
    """
    found = []
    for name in target.runtimes or plugins.names("headway.runtimes"):
        runtime: Runtime = plugins.load("headway.runtimes", name)()
        answers = [runtime.available(device) for device in target.devices]
        if all(answer.ready for answer in answers):
            found.append(runtime)
        elif target.runtimes:
            raise MissingDependencyError(next(a.detail for a in answers if not a.ready), where="target.runtimes")
    return found


def open_subjects(
    built: Sequence[Built], runtimes: Sequence[Runtime], target: Target, stack: ExitStack
) -> dict[str, Subject]:
    """Every variant on every runtime that reads its format and runs its 8 bits; `stack` closes them.

    Ids do not hang on what else is installed: a variant has its plan's, followed by any other runtime than ours.

    Raises:
        MissingDependencyError: no runtime can run any.
    """
    found = {}
    for variant in built:
        for runtime in runtimes:
            qdq = variant.precision == "int8" and variant.format == "onnx"
            if variant.format not in runtime.formats or (qdq and not runtime.runs_qdq):
                continue
            session = runtime.load(variant.file, device=target.devices[0], threads=target.threads)
            stack.callback(session.close)
            id_ = variant.plan.id if runtime.name == DEFAULT else f"{variant.plan.id}-{runtime.name}"
            found[id_] = Subject(variant, runtime.name, session)
    if not found:
        raise MissingDependencyError(
            "no runtime here can run the variants", remedy="Install one with: pip install onnxruntime"
        )
    return found


def evaluate(
    original: Original,
    subjects: Mapping[str, Subject],
    task: Task,
    target: Target,
    confidence: float,
    progress: Progress,
) -> Evaluation:
    """Measure every subject beside the original.

    Args:
        original: what they are compared with.
        subjects: by variant id.
        task: data and metric; `test` is read here and nowhere else.
        target: threads and time.
        confidence: of each end of each interval on its own.
        progress: told of long work.

    Raises:
        DataError: the original answers NaN, or is never right.
        TaskError: the metric raises or gives something else than it promises.
    """
    test = task.parts.test
    original_rows = scores(original.session, task, test, progress, f"test data: {original.name}")
    rows = {id_: scores(s.session, task, test, progress, f"test data: {id_}") for id_, s in subjects.items()}
    sessions = {_ORIGINAL: original.session, **{id_: subject.session for id_, subject in subjects.items()}}
    singles, throughput = _time(sessions, task.parts.test, target, confidence, progress)
    samples = golden(original.session, task.parts.test)
    original_mb = original.file.stat().st_size / 1e6
    cards = {}
    for id_, subject in subjects.items():
        size_mb = subject.built.size_mb
        cards[id_] = Scorecard(
            accuracy=compare(original_rows, rows[id_], metric=task.metric.name, confidence=confidence),
            latency_ms=summarise(singles[id_], confidence),
            speedup=speedup(singles[_ORIGINAL], singles[id_], confidence),
            throughput=throughput[id_],
            throughput_batch=_THROUGHPUT_BATCH,
            size_mb=size_mb,
            size_ratio=size_mb / original_mb,
            peak_memory_mb=_memory(subject, task.parts.test, target.threads),
            threads=target.threads,
            reference=original.name,
            machine=machine.here(),
        )
    return Evaluation(
        reference=Reference(
            name=original.name,
            accuracy=float(original_rows.mean()),
            latency_ms=summarise(singles[_ORIGINAL], confidence),
            throughput=throughput[_ORIGINAL],
            size_mb=original_mb,
        ),
        over_parent={
            id_: OverParent(parent=parent, speedup=speedup(singles[parent], singles[id_], confidence))
            for id_, parent in parents(subjects).items()
        },
        cards=cards,
        tolerances={id_: _tolerance(samples, s) for id_, s in subjects.items()},
    )


def scores(session: Session, task: Task, part: Part, progress: Progress, title: str) -> Rows:
    """The metric of each row of a part, [len(part)].

    Raises:
        DataError: an output is not finite.
        TaskError: the metric raises or gives something else than it promises.
    """
    outputs, targets = predict(session, part, progress, title)
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            raise DataError(f"output {name!r} is not finite", where=title)
    return score_rows(task.metric, outputs, targets, title)


def parents(subjects: Mapping[str, Subject]) -> dict[str, str]:
    """By id of a variant, the id of what its last step was taken from, on the same runtime.

    Where that is none of the variants (as its steps come only with another), the one before it.
    """
    taken = {
        id_: tuple((step.name, step.config.model_dump_json()) for step in subject.built.plan.steps)
        for id_, subject in subjects.items()
    }
    known = {(subject.runtime, taken[id_]): id_ for id_, subject in subjects.items()}
    found = {}
    for id_, subject in subjects.items():
        steps = taken[id_]
        before = (known.get((subject.runtime, steps[:count])) for count in range(len(steps) - 1, -1, -1))
        if (parent := next(filter(None, before), None)) is not None:
            found[id_] = parent
    return found


def _time(
    sessions: Mapping[str, Session], part: Part, target: Target, confidence: float, progress: Progress
) -> tuple[dict[str, Milliseconds], dict[str, float]]:
    """Milliseconds of single rows, and rows/s in batches, by name; everybody sees the same rows in the same order."""
    batch, _ = part.batch(np.arange(_THROUGHPUT_BATCH) % len(part))
    latency = interleave(
        single_runs(sessions, part),
        seconds=target.seconds,
        least_rounds=rounds_for_p99(confidence),
        progress=progress,
    )
    batches = interleave(
        {name: partial(session.run, batch) for name, session in sessions.items()},
        seconds=target.seconds / 2,
        least_rounds=5,
        most_rounds=100,
        progress=progress,
        title="measure throughput",
    )
    return latency, {name: 1000 * _THROUGHPUT_BATCH / float(np.median(ms)) for name, ms in batches.items()}


def single_runs(sessions: Mapping[str, Session], part: Part) -> dict[str, Callable[[], object]]:
    """What runs one row at each call, by name; everybody goes round the same rows in the same order."""
    singles = [part.batch(np.array([i]))[0] for i in range(min(_LATENCY_ROWS, len(part)))]

    def going_round(session: Session) -> Callable[[], object]:
        rows = itertools.cycle(singles)
        return lambda: session.run(next(rows))

    return {name: going_round(session) for name, session in sessions.items()}


def _memory(subject: Subject, part: Part, threads: int) -> float:
    inputs, _ = part.batch(np.arange(_THROUGHPUT_BATCH) % len(part))
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        file = Path(folder) / "batch.npz"
        np.savez(file, **inputs)  # type: ignore[arg-type]
        return peak_memory_mb(subject.runtime, subject.built.file, file, threads)


def _tolerance(samples: Sequence[Sample], subject: Subject) -> dict[str, float]:
    """What a sound replay may differ by, by output.

    Other machines' kernels sum in another order. In fp32 that moves the last bits; with 8-bit activations it can move
    one of them to the next of its 255 levels, and so the output by a share of its scale.
    """
    seen = errors(samples, subject.session)
    share = 1e-4 if subject.built.precision == "fp32" else 1e-2
    scale = {name: max(float(np.abs(s.outputs[name]).max(initial=0.0)) for s in samples) for name in seen}
    return {name: _ERROR_FACTOR * error + share * scale[name] for name, error in seen.items()}
