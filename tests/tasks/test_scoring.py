"""A metric of the user's own is held to what `Metric` promises."""

import numpy as np
import pytest

from headway.core.errors import TaskError
from headway.tasks import Metric
from headway.tasks.scoring import joined, score_rows

OUTPUTS = {"y": np.zeros((4, 1), np.float32)}
TARGETS = np.zeros(4)


def _fails(outputs: object, targets: object) -> np.ndarray:
    raise ZeroDivisionError("my mistake")


def test_sound_scores_come_back_as_float64() -> None:
    rows = score_rows(Metric("m", lambda o, t: [1, 0, 1, True], binary=True), OUTPUTS, TARGETS, "test")
    assert rows.dtype == np.float64
    assert rows.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("scores", "binary", "message"),
    [
        (np.zeros(3), False, r"test: metric 'm' must give one score a row, \[4\]; got \[3\]"),
        (0.5, False, r"one score a row, \[4\]; got \[\]"),
        (np.zeros((4, 1)), False, r"got \[4, 1\]"),
        (["a"] * 4, False, "metric 'm' must give numbers"),
        ([[1], [1, 2]], False, "metric 'm' on test raised ValueError"),
        (None, False, "must give numbers; got object"),
        ([0, np.nan, 1, 1], False, "metric 'm' gives nan for row 1: every score must be finite"),
        ([0, 1, 1, np.inf], False, "gives inf for row 3"),
        ([0, 1, -0.5, 1], False, "gives -0.5 for row 2: scores must not be below 0"),
        ([0, 1, 0.5, 1], True, "gives 0.5 for row 2: it is declared binary"),
    ],
)
def test_unfit_scores_are_refused(scores: object, binary: bool, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        score_rows(Metric("m", lambda o, t: scores, binary=binary), OUTPUTS, TARGETS, "test")


def test_what_the_metric_raises_is_told() -> None:
    with pytest.raises(TaskError, match="metric 'm' on test raised ZeroDivisionError: my mistake"):
        score_rows(Metric("m", _fails, binary=False), OUTPUTS, TARGETS, "test")


def test_outputs_of_batches_are_joined_in_order_unless_they_vary() -> None:
    batches = [{"y": np.zeros((2, 3))}, {"y": np.ones((1, 3))}]
    assert joined(batches)["y"][:, 0].tolist() == [0, 0, 1]
    with pytest.raises(TaskError, match=r"output 'y' is \[3\] a row in one batch, and \[5\] in another"):
        joined([*batches, {"y": np.ones((1, 5))}])
