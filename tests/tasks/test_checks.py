"""What can be known of a task before any work is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from headway.core.errors import DataError, HeadwayError, TaskError
from headway.tasks import Arrays, Metric, Parts, Task
from headway.tasks.checks import check


class _Told:
    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def work(self, title: str, total: float) -> Iterator["_Told"]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)


def _part(rows: int = 20, seed: int = 0) -> Arrays:
    values = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    return Arrays({"x": values}, np.arange(rows) % 2)


def _task(**changes: object) -> Task:
    task = Task(parts=Parts(_part(seed=1), _part(seed=2), _part(seed=3), _part(seed=4)), model=lambda: nn.Linear(3, 2))
    return replace(task, **changes)


def _with(name: str, part: object) -> Task:
    task = _task()
    return replace(task, parts=replace(task.parts, **{name: part}))


def test_a_sound_task_passes_in_silence() -> None:
    told = _Told()
    check(_task(), told)
    check(_task(model=None), told)
    assert told.said == []


def _spoilt(row: int, value: float) -> Arrays:
    part = _part()
    part.inputs["x"][row, 1] = value
    return part


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("test", _part(0), "test: the part is empty"),
        ("calibration", _spoilt(7, np.nan), "calibration: input 'x' of row 7 holds NaN or infinity"),
        ("train", _spoilt(0, -np.inf), "train: input 'x' of row 0 holds NaN or infinity"),
        (
            "selection",
            Arrays({"x": _part().inputs["x"]}, np.full(20, np.nan)),
            "selection: the target of row 0 holds NaN",
        ),
        ("test", Arrays({"y": _part().inputs["x"]}, np.zeros(20, int)), r"test: inputs are \['y'\], in the training"),
        ("test", Arrays({"x": np.zeros((5, 3))}, np.zeros(5, int)), r"'x' is float64 \[3\] a row, .* float32 \[3\]"),
        ("test", Arrays({"x": np.zeros((5, 4), np.float32)}, np.zeros(5, int)), r"'x' is float32 \[4\] a row"),
        ("test", Arrays({"x": np.array([["a"]])}, np.zeros(1, int)), "'x' must be a numpy array of numbers, got <U1"),
        ("train", Arrays({"x": _part().inputs["x"]}, np.arange(20)), "target 19 is not one of the 2 classes, 0 to 1"),
        ("test", Arrays({"x": _part().inputs["x"]}, -np.ones(20, int)), "target -1 is not one of the 2 classes"),
        (
            "test",
            Arrays({"x": _part().inputs["x"]}, np.zeros(20)),
            r"one whole number a row as target, got float64 \[\]",
        ),
        ("test", Arrays({"x": _part().inputs["x"]}, np.zeros((20, 1), int)), r"got int64 \[1\]"),
        ("test", [1, 2], "test: list is not a part"),
    ],
)
def test_unfit_data_is_refused(name: str, part: object, message: str) -> None:
    with pytest.raises(HeadwayError, match=message) as caught:
        check(_with(name, part))
    assert caught.value.exit_code == 2


class _Odd:
    """A part of the user's own that does something wrong."""

    def __init__(self, returns: object) -> None:
        self.returns = returns

    def __len__(self) -> int:
        return 3

    def batch(self, rows: object) -> object:
        if isinstance(self.returns, Exception):
            raise self.returns
        return self.returns

    def digest(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (RuntimeError("disk gone"), r"batch\(\) of the train part raised RuntimeError: disk gone"),
        ((np.zeros((3, 2)), np.zeros(3)), r"batch\(\) must return a dict of arrays"),
        (({"x": np.zeros((5, 3))}, np.zeros(5)), r"batch\(\) of 1 rows returned 5 of 'x'"),
        (({"x": [[1.0]]}, np.zeros(1)), "'x' must be a numpy array of numbers, got list"),
    ],
)
def test_a_part_of_ones_own_is_held_to_the_protocol(returns: object, message: str) -> None:
    with pytest.raises(HeadwayError, match=message):
        check(_with("train", _Odd(returns)))


def _fails() -> nn.Module:
    raise OSError("no weights")


class _Returns(nn.Module):
    def __init__(self, make: object) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> object:
        return self.make(x)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": _fails}, "the model factory raised OSError: no weights"),
        ({"model": lambda: 3}, "the model factory returned int, not a torch.nn.Module"),
        ({"model": lambda: nn.Linear(4, 2)}, "the model raised RuntimeError: mat1 and mat2"),
        ({"model": lambda: _Returns(lambda x: x.sum())}, r"of 2 rows has the shape \[\]; it must be \[2, ...\]"),
        ({"model": lambda: _Returns(lambda x: x[:1])}, r"of 2 rows has the shape \[1, 3\]"),
        ({"model": lambda: _Returns(lambda x: x[:, 0])}, r"has the shape \[2\]; accuracy needs \[2, classes\]"),
        ({"model": lambda: _Returns(lambda x: x / 0)}, "of the untrained model holds NaN or infinity"),
        ({"model": lambda: _Returns(lambda x: [["a"]])}, "output 'logits' is list, not a tensor"),
        ({"labels": ("a", "b", "c")}, r"the shape \[2, 2\]; accuracy needs \[2, classes\] with 3 classes"),
        ({"output_names": ("a", "b")}, "the model returns 1 outputs where the task names 2"),
        ({"metric": Metric("mine", lambda o, t: np.zeros(3), binary=False)}, r"one score a row, \[2\]; got \[3\]"),
        ({"metric": Metric("mine", lambda o, t: o["no"], binary=False)}, "metric 'mine' on .* raised KeyError: 'no'"),
        ({"metric": Metric("mine", lambda o, t: -np.ones(2), binary=False)}, "scores must not be below 0"),
        ({"metric": Metric("mine", lambda o, t: np.full(2, 0.5), binary=True)}, "declared binary"),
        ({"model": nn.Linear(3, 2)}, "model must be a function that makes the module, got Linear itself"),
        ({"labels": ["a", "b"]}, "labels must be a tuple of texts"),
        ({"labels": (0, 1)}, "labels must be a tuple of texts"),
        ({"output_names": "logits"}, "output_names must be a tuple of texts"),
        ({"output_names": ()}, "at least one name"),
        ({"output_names": ("x",)}, "'x' is the name of an input and of an output"),
        ({"metric": "accuracy"}, "holds str where Parts and a Metric belong"),
        ({"parts": None}, "holds NoneType where Parts and a Metric belong"),
    ],
)
def test_an_unfit_model_or_metric_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check(_task(**changes))


def test_a_forward_that_fails_shows_what_it_was_given() -> None:
    doubles = Arrays({"x": np.zeros((9, 3))}, np.zeros(9, int))
    with pytest.raises(TaskError) as caught:
        check(_task(parts=Parts(doubles, doubles, doubles, doubles)))
    assert caught.value.remedy is not None
    assert "It was given x float64 [2, 3]." in caught.value.remedy
    assert ".astype(numpy.float32)" in caught.value.remedy


def test_other_metrics_may_have_other_targets() -> None:
    metric = Metric("closeness", lambda outputs, targets: np.exp(-abs(outputs["y"][:, 0] - targets)), binary=False)
    part = Arrays({"x": _part().inputs["x"]}, np.linspace(0, 1, 20))
    check(
        Task(
            parts=Parts(part, part, part, part),
            model=lambda: nn.Linear(3, 1),
            metric=metric,
            loss=lambda outputs, targets: outputs["y"].sum(),
            output_names=("y",),
        )
    )


def test_rows_that_also_stand_in_train_are_told() -> None:
    told = _Told()
    task = _task()
    inputs, targets = task.parts.train.batch(np.array([3, 5]))
    check(replace(task, parts=replace(task.parts, test=Arrays(inputs, targets))), told)
    assert len(told.said) == 1
    assert "2 rows of test also stand in train" in told.said[0]


def test_large_parts_are_sampled_and_say_so() -> None:
    told = _Told()
    check(_with("train", _part(2000, seed=9)), told, max_bytes=12 * 1500)
    assert told.said == ["train: checked 1,500 of 2,000 rows, evenly spaced"]
    with pytest.raises(DataError):
        check(_with("train", _spoilt(19, np.nan)), max_bytes=12 * 2)  # the last row is always among them
