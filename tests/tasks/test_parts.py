"""Four parts that share no row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import DataError
from headway.tasks import ACCURACY, Arrays, split
from headway.tasks.parts import Part, Subset


@given(rows=st.integers(10, 400), seed=st.integers(0, 50))
def test_a_split_loses_and_repeats_no_row(rows: int, seed: int) -> None:
    parts = split({"x": np.arange(rows)[:, None]}, np.arange(rows) * 2, fractions=(0.4, 0.1, 0.2, 0.3), seed=seed)
    seen = [part.batch(np.arange(len(part))) for part in (parts.train, parts.calibration, parts.selection, parts.test)]
    assert sorted(np.concatenate([inputs["x"][:, 0] for inputs, _ in seen])) == list(range(rows))
    assert all((inputs["x"][:, 0] * 2 == targets).all() for inputs, targets in seen)
    assert abs(len(parts.train) - 0.4 * rows) <= 1


def test_digests_tell_content_apart() -> None:
    zeros = np.zeros((2, 2), np.float32)
    digests = {
        Arrays(zeros, np.zeros(2)).digest(),
        Arrays(zeros + 1, np.zeros(2)).digest(),
        Arrays(zeros, np.ones(2)).digest(),
        Arrays({"x": zeros}, np.zeros(2)).digest(),
        Arrays(zeros.astype(np.float64), np.zeros(2)).digest(),
        Arrays(zeros[:, :, None], np.zeros(2)).digest(),
    }
    assert len(digests) == 6
    assert Arrays(zeros, np.zeros(2)).digest() == Arrays(zeros.copy(), np.zeros(2)).digest()


def test_arrays_are_a_part_and_give_rows_in_the_order_asked() -> None:
    part = Arrays(np.arange(5), np.arange(5))
    assert isinstance(part, Part)
    assert part.batch(np.array([3, 0, 3]))[1].tolist() == [3, 0, 3]


@pytest.mark.parametrize("fractions", [(1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5), (0.5, 0.5)])
def test_fractions_must_be_four_shares_of_one(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="four positive numbers that add up to 1"):
        split(np.zeros(8), np.zeros(8), fractions=fractions)


def test_inputs_and_targets_must_have_as_many_rows() -> None:
    with pytest.raises(DataError, match="3 rows of 'input' but 2 targets"):
        Arrays(np.zeros(3), np.zeros(2))


def test_accuracy_scores_each_row() -> None:
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert ACCURACY.rows({"logits": logits}, np.array([1, 1, 1])).tolist() == [1, 0, 1]


def test_a_subset_is_a_part_of_its_own() -> None:
    whole = Arrays(np.arange(5), np.arange(5))
    part = Subset(whole, np.array([4, 1]))
    assert isinstance(part, Part)
    assert len(part) == 2
    assert part.batch(np.array([1, 0]))[1].tolist() == [1, 4]
    assert part.digest() != Subset(whole, np.array([1, 4])).digest()
