"""A metric's scores, held to what `Metric` promises: a user's function is checked wherever it is called."""

from collections.abc import Mapping, Sequence

import numpy as np

from headway.core.errors import HeadwayError, TaskError
from headway.core.tensors import Array
from headway.tasks.factory import user_error
from headway.tasks.task import Metric, Rows

_POSITIVE = "Greater must be better: turn a loss into 1 / (1 + loss) or exp(-loss)."


def joined(batches: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The outputs of several batches as one, by name, [rows of all, ...].

    Raises:
        TaskError: an output has other dimensions in one batch than in another, so that it grows with inputs that vary.
    """
    for name, first in batches[0].items():
        for batch in batches:
            if batch[name].shape[1:] != first.shape[1:]:
                raise TaskError(
                    f"output {name!r} is {list(first.shape[1:])} a row in one batch, and {list(batch[name].shape[1:])} "
                    "in another",
                    remedy="A metric needs outputs of one shape: pool over what varies, or pad every row alike.",
                )
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def score_rows(metric: Metric, outputs: Mapping[str, Array], targets: Array, where: str) -> Rows:
    """The metric's score of every row, float64, [len(targets)]; finite and not below 0.

    Args:
        metric: the task's.
        outputs: by name, [N, ...] each.
        targets: [N, ...].
        where: the data that is scored, for messages.

    Raises:
        TaskError: the metric raises, or returns text, another shape, NaN, infinity, a score below 0, or, where it is
            `binary`, a score that is neither 0 nor 1.
    """
    what = f"metric {metric.name!r}"
    try:
        scores = np.asarray(metric.rows(outputs, targets))
    except HeadwayError:
        raise
    except Exception as error:
        raise user_error(f"{what} on {where}", error) from error
    if scores.dtype.kind not in "biuf":
        raise TaskError(f"{what} must give numbers; got {scores.dtype}", where=where)
    if scores.shape != (len(targets),):
        raise TaskError(
            f"{what} must give one score a row, [{len(targets)}]; got {list(scores.shape)}",
            where=where,
            remedy="Return a score for each row, and leave the mean to Headway.",
        )
    rows = scores.astype(np.float64)
    _refuse(what, where, rows, ~np.isfinite(rows), "every score must be finite", None)
    _refuse(what, where, rows, rows < 0, "scores must not be below 0", _POSITIVE)
    if metric.binary:
        _refuse(
            what,
            where,
            rows,
            (rows != 0) & (rows != 1),
            "it is declared binary, so every score must be 0 or 1",
            "Declare it with Metric(..., binary=False).",
        )
    return rows


def _refuse(what: str, where: str, rows: Rows, wrong: Array, rule: str, remedy: str | None) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise TaskError(f"{what} gives {rows[row]:.4g} for row {row}: {rule}", where=where, remedy=remedy)
