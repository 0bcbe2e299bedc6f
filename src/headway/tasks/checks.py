"""Everything about a task that can be found out before any work is done, each with one clear message."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np

from headway.core.errors import DataError, HeadwayError, TaskError
from headway.core.modules import forward
from headway.core.progress import SILENT, Progress
from headway.core.tensors import DYNAMIC, Array
from headway.tasks.factory import build_model, user_error
from headway.tasks.parts import Inputs, Part, Parts
from headway.tasks.scoring import score_rows
from headway.tasks.task import ACCURACY, Metric, Task

_BYTES = 256_000_000  # of a part's inputs that are looked at
_CHUNK = 1024  # rows asked for at once
Varying = Mapping[str, Mapping[int, str]]


def check(task: Task, progress: Progress = SILENT, *, max_bytes: int = _BYTES) -> None:
    """Look at the data and try the model on two rows.

    Rows that stand in two parts are only told, not refused: in tables with few distinct rows they are no mistake.

    Args:
        task: as the user's function returned it.
        progress: hears what was only sampled, and which parts share rows.
        max_bytes: of each part's inputs that are looked at; of a larger part, evenly spaced rows.

    Raises:
        DataError: a part is empty, differs from the training part, or holds NaN, infinity or a wrong target.
        TaskError: something is not of the type it should be, the user's code raises, or the model's output is unfit.
    """
    if not isinstance(task.parts, Parts) or not isinstance(task.metric, Metric):
        wrong = task.metric if isinstance(task.parts, Parts) else task.parts
        raise TaskError(f"holds {type(wrong).__name__} where Parts and a Metric belong", where="task")
    for name in ("labels", "output_names"):
        _check_texts(name, getattr(task, name))
    with progress.work("check the data", 4) as bar:
        looks = {}
        for part in fields(Parts):
            looks[part.name] = _look(part.name, getattr(task.parts, part.name), max_bytes, task.varying)
            bar.advance(1, part.name)
    _check_varying(task, looks["train"].form)
    for name, look in looks.items():
        _same_form(name, look, looks["train"])
        if look.seen < look.rows:
            progress.say(f"{name}: checked {look.seen:,} of {look.rows:,} rows, evenly spaced")
    for name in ("calibration", "selection", "test"):
        if shared := len(looks[name].hashes & looks["train"].hashes):
            progress.say(
                f"warning: the inputs of {shared:,} rows of {name} also stand in train; "
                f"what is measured on {name} may flatter the model"
            )
    classes = _check_model(task) if task.model is not None else len(task.labels)
    if task.metric is ACCURACY and task.loss is None:
        for name, look in looks.items():
            _check_classes(name, look, classes)


def _check_texts(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(text, str) and text for text in value):
        shown = f"{value!r:.60}"
        raise TaskError(f"{name} must be a tuple of texts, got {shown}", where="task")
    if name == "output_names" and (not value or len(set(value)) != len(value)):
        raise TaskError(f"output_names must hold at least one name and none twice, got {value!r:.60}", where="task")


def _check_varying(task: Task, inputs: "Mapping[str, tuple[object, tuple[int, ...]]]") -> None:
    """Hold `varying` and `padding` against the inputs, whose rows' shapes come second, and each other."""
    if unknown := sorted((set(task.varying) | set(task.padding)) - set(inputs)):
        raise TaskError(f"varying or padding names {unknown[0]!r}; the inputs are {sorted(inputs)}", where="task")
    for name, dims in task.varying.items():
        for axis, dim in dims.items():
            if not 0 < axis <= len(inputs[name][1]) or not dim.isidentifier() or dim == "batch":
                raise TaskError(
                    f"dimension {axis} of {name!r}, called {dim!r}, cannot vary: a row has {len(inputs[name][1])}, "
                    "counted from 1, and a name is an identifier other than 'batch'",
                    where="varying",
                )
    if rest := sorted(name for name in task.padding if not task.varying.get(name)):
        raise TaskError(f"{rest[0]!r} is padded, and none of its dimensions varies", where="padding")


@dataclass(frozen=True)
class _Look:
    """What was seen of a part."""

    rows: int
    seen: int
    form: dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]  # dtype and shape of a row, by input
    targets: Array
    hashes: frozenset[int]


def _look(name: str, part: object, max_bytes: int, varying: Varying) -> _Look:
    if not isinstance(part, Part):
        raise TaskError(f"{type(part).__name__} is not a part: it lacks batch(), digest() or a length", where=name)
    count = len(part)
    if count == 0:
        raise DataError("the part is empty", where=name, remedy="Give it rows, or larger fractions to split().")
    first, first_targets = _batch(name, part, np.arange(1))
    row_bytes = sum(value.nbytes for value in first.values())
    seen = min(count, max(2, max_bytes // max(1, row_bytes)))
    rows = np.linspace(0, count - 1, seen).astype(np.int64)
    targets: list[Array] = []
    hashes: set[int] = set()
    # Rows that vary in length are asked for one by one: among others they would be padded, and could not be compared.
    for chunk in _chunks(rows, 1 if varying else _CHUNK):
        inputs, wanted = _batch(name, part, chunk)
        for input_name, value in inputs.items():
            _refuse_not_finite(value, chunk, name, f"input {input_name!r}")
        _refuse_not_finite(wanted, chunk, name, "the target")
        targets.append(wanted)
        hashes.update(_hashes(inputs, len(chunk)))
    form = {key: (value.dtype, _shape(value, varying.get(key, {}))) for key, value in first.items()}
    seen_targets = np.concatenate(targets) if targets else first_targets
    return _Look(count, seen, form, seen_targets, frozenset(hashes))


def _chunks(rows: Array, size: int) -> Iterator[Array]:
    yield from np.split(rows, range(size, len(rows), size))


def _shape(value: Array, dims: Mapping[int, str]) -> tuple[int, ...]:
    """Of a row, with -1 for what varies."""
    return tuple(DYNAMIC if axis in dims else size for axis, size in enumerate(value.shape) if axis)


def _batch(name: str, part: Part, rows: Array) -> tuple[Inputs, Array]:
    try:
        inputs, targets = part.batch(rows.astype(np.int64))
    except HeadwayError:
        raise
    except Exception as error:
        raise user_error(f"batch() of the {name} part", error) from error
    if not isinstance(inputs, dict) or not inputs:
        raise TaskError("batch() must return a dict of arrays by name, and targets", where=name)
    for key, value in [*inputs.items(), ("targets", targets)]:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            got = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
            raise DataError(f"{key!r} must be a numpy array of numbers, got {got}", where=name)
        if len(value) != len(rows):
            raise DataError(f"batch() of {len(rows)} rows returned {len(value)} of {key!r}", where=name)
    return inputs, targets


def _refuse_not_finite(values: Array, rows: Array, part: str, what: str) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values).reshape(len(rows), -1).all(axis=1)))
        raise DataError(
            f"{what} of row {int(rows[bad])} holds NaN or infinity",
            where=part,
            remedy="Clean the data: drop such rows, or fill them in.",
        )


def _hashes(inputs: Inputs, rows: int) -> Iterator[int]:
    """One number for each row's inputs; 64 bits, so that a chance match among millions of rows is unlikely."""
    flat = [np.ascontiguousarray(inputs[name]).reshape(rows, -1) for name in sorted(inputs)]
    for row in range(rows):
        yield hash(b"".join(value[row].tobytes() for value in flat))


def _same_form(name: str, look: _Look, train: _Look) -> None:
    if look.form.keys() != train.form.keys():
        raise DataError(f"inputs are {sorted(look.form)}, in the training part {sorted(train.form)}", where=name)
    for key, (dtype, shape) in look.form.items():
        if (dtype, shape) != train.form[key]:
            want, want_shape = train.form[key]
            raise DataError(
                f"input {key!r} is {dtype} {list(shape)} a row, in the training part {want} {list(want_shape)}",
                where=name,
            )


def _check_classes(name: str, look: _Look, classes: int) -> None:
    targets = look.targets
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise DataError(
            f"accuracy needs one whole number a row as target, got {targets.dtype} {list(targets.shape[1:])}",
            where=name,
            remedy="Give class numbers from 0 as int64, or set the task's metric and loss.",
        )
    if targets.min() < 0 or (classes and targets.max() >= classes):
        wrong = targets.min() if targets.min() < 0 else targets.max()
        raise DataError(f"target {wrong} is not one of the {classes} classes, 0 to {classes - 1}", where=name)


def _check_model(task: Task) -> int:
    """Try the model on two rows; returns the classes of its first output."""
    import torch

    part = task.parts.train
    inputs, targets = _batch("train", part, np.arange(2) % len(part))
    if clash := sorted(set(inputs) & set(task.output_names)):
        raise TaskError(
            f"{clash[0]!r} is the name of an input and of an output", where="task", remedy="Rename it in output_names."
        )
    model = build_model(task).eval()
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
    try:
        with torch.inference_mode():
            outputs = forward(model, tensors, task.output_names)
    except HeadwayError:
        raise
    except Exception as error:
        raise _forward_error(inputs, error) from error
    arrays = {name: _output(name, value) for name, value in outputs.items()}
    first_name, first = next(iter(arrays.items()))
    if task.metric is ACCURACY:
        classes = len(task.labels) or None
        if first.ndim != 2 or (classes and first.shape[1] != classes):
            raise TaskError(
                f"output {first_name!r} of 2 rows has the shape {list(first.shape)}; accuracy needs [2, classes]"
                + (f" with {classes} classes, as the task has labels" if classes else ""),
                where="model",
            )
    score_rows(task.metric, arrays, targets, "two rows of train, untrained model")
    return int(first.shape[1]) if first.ndim == 2 else 0


def _output(name: str, value: object) -> Array:
    import torch

    if not isinstance(value, torch.Tensor):
        raise TaskError(f"output {name!r} is {type(value).__name__}, not a tensor", where="model")
    if value.dim() == 0 or len(value) != 2:
        raise TaskError(
            f"output {name!r} of 2 rows has the shape {list(value.shape)}; it must be [2, ...]", where="model"
        )
    if not value.isfinite().all():
        raise TaskError(f"output {name!r} of the untrained model holds NaN or infinity", where="model")
    floating: torch.Tensor = value.float() if value.is_floating_point() else value
    return floating.cpu().numpy()


def _forward_error(inputs: Inputs, error: Exception) -> TaskError:
    mistake = user_error("the model", error)
    forms = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in inputs.items())
    doubles = any(value.dtype == np.float64 for value in inputs.values())
    hint = " Models compute in float32: give the data with .astype(numpy.float32)." if doubles else ""
    return TaskError(mistake.message, where=mistake.where, remedy=f"It was given {forms}.{hint}")
