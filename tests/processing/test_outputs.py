"""What is made of a model's answers, against scipy's and numpy's own functions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import special

from headway.processing.outputs import Argmax, Labels, Sigmoid, Softmax, Threshold, TopK
from headway.processing.stage import Flow, Kit, Stage

KIT = Kit(labels=("cat", "dog", "Kätzchen"))
FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)


def done(stage: Stage, value: np.ndarray) -> np.ndarray:
    return stage.open(KIT)(value)


def logits(dtype: Any, shape: Any = SHAPES) -> st.SearchStrategy[np.ndarray]:
    largest = 2.0 ** {2: 15, 4: 126, 8: 1000}[np.dtype(dtype).itemsize]
    width = np.dtype(dtype).itemsize * 8
    numbers = st.floats(-largest, largest, width=width, allow_subnormal=False)
    return hnp.arrays(dtype, shape, elements=numbers)


@given(FLOATS.flatmap(logits))
@settings(deadline=None)
def test_softmax_is_scipys(value: np.ndarray) -> None:
    found = done(Softmax(), value)
    assert found.dtype == value.dtype
    wide = value.astype(np.float64)
    tolerance = 4 * float(np.finfo(value.dtype).eps)
    if value.dtype != np.float64:
        wide = value.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(found, special.softmax(wide, axis=-1), atol=tolerance, rtol=10 * tolerance)
    np.testing.assert_allclose(found.astype(np.float64).sum(axis=-1), 1, atol=10 * tolerance)


@given(FLOATS.flatmap(logits))
@settings(deadline=None)
def test_sigmoid_is_scipys(value: np.ndarray) -> None:
    found = done(Sigmoid(), value)
    assert found.dtype == value.dtype
    tolerance = 4 * float(np.finfo(value.dtype).eps)
    np.testing.assert_allclose(found, special.expit(value.astype(np.float64)), atol=tolerance, rtol=tolerance)


def test_the_models_own_arrays_are_left_alone() -> None:
    value = np.array([[1.0, 2.0]], np.float32)
    for stage in (Softmax(), Sigmoid(), TopK(k=1), Argmax(), Threshold()):
        done(stage, value)
    assert value.tolist() == [[1.0, 2.0]]


def test_extreme_logits() -> None:
    most = np.finfo(np.float32).max
    assert done(Softmax(), np.array([[most, -most, 0]], np.float32)).tolist() == [[1, 0, 0]]
    assert done(Sigmoid(), np.array([[most, -most, 0]], np.float32)).tolist() == [[1, 0, 0.5]]


def test_infinite_logits_say_so() -> None:
    found = done(Softmax(), np.array([[np.inf, 0], [-np.inf, 0], [np.nan, 0]], np.float32))
    assert np.isnan(found[[0, 2]]).all()
    assert found[1].tolist() == [0, 1]
    assert done(Sigmoid(), np.array([[np.inf, -np.inf]])).tolist() == [[1, 0]]


NUMBERS = st.sampled_from([np.int8, np.uint8, np.int64, np.uint64, np.float32])


@given(st.data(), NUMBERS)
@settings(deadline=None)
def test_top_k_is_a_stable_sort(data: st.DataObject, dtype: Any) -> None:
    few = st.integers(0, 3) if np.dtype(dtype).kind == "u" else st.integers(-3, 3)  # so that many are equal
    value = data.draw(hnp.arrays(dtype, SHAPES, elements=few))
    k = data.draw(st.integers(1, value.shape[-1]))
    rows = value.reshape(-1, value.shape[-1])
    expected = [sorted(range(len(row)), key=lambda at, row=row: (-int(row[at]), at))[:k] for row in rows]
    places = done(TopK(k=k, give="indices"), value)
    assert places.dtype == np.int64
    assert places.reshape(-1, k).tolist() == expected
    np.testing.assert_array_equal(done(TopK(k=k), value), np.take_along_axis(value, places, -1))
    assert done(TopK(k=k), value).dtype == dtype
    np.testing.assert_array_equal(done(Argmax(), value), places[..., 0])


def test_the_ends_of_whole_numbers_are_ranked() -> None:
    value = np.array([[-(2**63), 2**63 - 1, 0]], np.int64)
    assert done(TopK(k=3, give="indices"), value).tolist() == [[1, 2, 0]]


def test_thresholds() -> None:
    value = np.array([[0.49, 0.5, np.nan]], np.float32)
    assert done(Threshold(), value).tolist() == [[False, True, False]]
    assert done(Threshold(at=2), np.array([[1, 2]])).dtype == bool


def test_labels() -> None:
    found = done(Labels(), np.array([[2, 0], [1, 1]]))
    assert found.dtype == object
    assert found.tolist() == [["Kätzchen".encode(), b"cat"], [b"dog", b"dog"]]


SCORES = Flow("tensor", "FP32", (-1, 3))


def test_flows() -> None:
    assert Softmax().check(SCORES, KIT) == SCORES
    assert Threshold().check(SCORES, KIT) == Flow("tensor", "BOOL", (-1, 3))
    assert TopK(k=2).check(SCORES, KIT) == Flow("tensor", "FP32", (-1, 2))
    places = TopK(k=2, give="indices").check(SCORES, KIT)
    assert places == Flow("tensor", "INT64", (-1, 2), classes=3)
    assert Labels().check(places, KIT) == Flow("tensor", "BYTES", (-1, 2))
    assert Argmax().check(SCORES, KIT) == Flow("tensor", "INT64", (-1,), classes=3)
    open_ = Flow("tensor", "FP32", (-1, -1))
    assert TopK(k=9).check(open_, KIT).shape == (-1, -1)
    assert Labels().check(Argmax().check(open_, KIT), KIT).datatype == "BYTES"


@pytest.mark.parametrize(
    ("stage", "given_", "says"),
    [
        (Softmax(), Flow("answer"), "put it after take"),
        (Softmax(), Flow("tensor", "INT64", (-1, 3)), "FP16, FP32, FP64, not INT64"),
        (Softmax(), Flow("tensor", "FP32", (-1,)), r"\[rows, ..., classes\]"),
        (Argmax(), Flow("tensor", "BYTES", (-1, 3)), "takes numbers"),
        (Threshold(), Flow("tensor", "BOOL", (-1, 3)), "takes numbers"),
        (TopK(k=4), SCORES, "the greatest 4 of 3 classes"),
        (Labels(), SCORES, "takes indices"),
        (Labels(), Flow("tensor", "INT64", (-1,), classes=4), "3 labels for 4 classes"),
    ],
)
def test_wrong_chains(stage: Stage, given_: Flow, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        stage.check(given_, KIT)


def test_a_model_without_labels_has_none_to_give() -> None:
    with pytest.raises(ValueError, match="the model has no labels"):
        Labels().check(Flow("tensor", "INT64", (-1,), classes=4), Kit())


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 10**6}, {"k": True}, {}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TopK.model_validate(wrong)
