"""No two different requests have one key, wherever a stranger lets one part end and the next begin."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headway.core.tensors import Array
from headway.serve.cache_key import Keys

KEYS = Keys("digest", "fp32", "1", "answer")
Inputs = dict[str, Array]

NAMES = st.text(st.characters(codec="utf-8"), max_size=4)
NUMBERS = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in ("?", "u1", "i1", "<u2", "<i2", "<i4", "<f4", "<i8", "<f8", "<f2")]),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
)
TEXTS = st.lists(st.binary(max_size=12), max_size=4).map(lambda items: texts(*items))
REQUESTS = st.dictionaries(NAMES, NUMBERS | TEXTS, max_size=3)


def texts(*items: bytes | str) -> Array:
    found = np.empty(len(items), dtype=object)
    found[:] = items
    return found


def exactly(inputs: Inputs) -> list[Any]:
    """Everything that an answer may depend on."""
    return [
        (name, value.dtype.str, value.shape, value.tolist() if value.dtype == object else value.tobytes())
        for name, value in inputs.items()
    ]


@given(REQUESTS, REQUESTS, st.text(max_size=3), st.text(max_size=3))
def test_keys_agree_exactly_where_requests_do(one: Inputs, other: Inputs, tenant: str, stranger: str) -> None:
    same = (exactly(one), tenant) == (exactly(other), stranger)
    assert (KEYS.of(one, tenant) == KEYS.of(other, stranger)) == same


@given(st.binary(max_size=64), st.integers(0, 64), st.integers(0, 64))
def test_bytes_cannot_move_between_inputs(content: bytes, cut: int, other: int) -> None:
    def split(at: int) -> Inputs:
        return {"a": np.frombuffer(content[:at], "u1"), "b": np.frombuffer(content[at:], "u1")}

    same = min(cut, len(content)) == min(other, len(content))
    assert (KEYS.of(split(cut), "") == KEYS.of(split(other), "")) == same


@given(st.lists(st.binary(max_size=20), max_size=6), st.lists(st.binary(max_size=20), max_size=6))
def test_text_cannot_be_split_otherwise(one: list[bytes], other: list[bytes]) -> None:
    assert (KEYS.of({"t": texts(*one)}, "") == KEYS.of({"t": texts(*other)}, "")) == (one == other)


def test_text_that_holds_what_a_key_is_made_of_is_still_text() -> None:
    length = (3).to_bytes(8, "little")
    assert KEYS.of({"t": texts(b"abc", b"abc")}, "") != KEYS.of({"t": texts(b"abc" + length + b"abc")}, "")
    assert KEYS.of({"t": texts(b"abc")}, "") != KEYS.of({"t": np.frombuffer(length + b"abc", "u1")}, "")


@given(hnp.arrays(np.dtype("<i4"), (2, 6)))
def test_a_reshaped_or_reinterpreted_input_is_another(value: Array) -> None:
    keys = {
        KEYS.of({"x": seen}, "")
        for seen in (value, value.reshape(6, 2), value.reshape(12), value.view("<f4"), value.view("<u4"))
    }
    assert len(keys) == 5


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_models_do_not_share_keys(one: list[str], other: list[str]) -> None:
    inputs = {"x": np.zeros(3, "f4")}
    assert (Keys(*one).of(inputs, "") == Keys(*other).of(inputs, "")) == (one == other)


@pytest.mark.parametrize("name", ["digest", "fp32", "1", "answer"])
def test_each_part_counts(name: str) -> None:
    parts = ["digest", "fp32", "1", "answer"]
    changed = [part + "0" if part == name else part for part in parts]
    inputs = {"x": np.zeros(3, "f4")}
    assert Keys(*parts).of(inputs, "") == KEYS.of(inputs, "")
    assert Keys(*changed).of(inputs, "") != KEYS.of(inputs, "")


def test_the_key_is_of_the_values_and_not_of_how_they_lie_in_memory() -> None:
    value = np.arange(12, dtype="<f4").reshape(3, 4)
    assert KEYS.of({"x": np.asfortranarray(value)}, "") == KEYS.of({"x": value}, "")
    assert KEYS.of({"x": np.repeat(value, 2, axis=0)[::2]}, "") == KEYS.of({"x": value}, "")
    assert KEYS.of({"t": texts("grün", b"x")}, "") == KEYS.of({"t": texts("grün".encode(), "x")}, "")


def test_nearly_equal_is_not_equal() -> None:
    assert KEYS.of({"x": np.array([0.0])}, "") != KEYS.of({"x": np.array([-0.0])}, "")
