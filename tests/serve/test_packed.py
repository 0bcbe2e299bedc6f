"""An answer as bytes: what goes in comes out, and nobody can change it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headway.core.tensors import DATATYPES, Array
from headway.serve.packed import pack, read_only, unpack

NUMBERS = st.sampled_from([row for row in DATATYPES if row.size and row.numpy]).flatmap(
    lambda row: hnp.arrays(np.dtype(row.numpy), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@st.composite
def texts(draw: st.DrawFn) -> Array:
    shape = draw(hnp.array_shapes(max_dims=2, min_side=0, max_side=3))
    found = np.empty(int(np.prod(shape)), dtype=object)
    found[:] = draw(st.lists(st.binary(max_size=5) | st.text(max_size=5), min_size=found.size, max_size=found.size))
    return found.reshape(shape)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), NUMBERS | texts(), max_size=4))
def test_what_goes_in_comes_out(outputs: dict[str, Array]) -> None:
    back = unpack(pack(outputs))
    assert list(back) == list(outputs)
    for name, value in outputs.items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape)
        if value.dtype == object:
            wanted = [item.encode() if isinstance(item, str) else item for item in value.flat]
            assert back[name].ravel().tolist() == wanted
        else:
            assert back[name].tobytes() == value.tobytes()
            assert back[name].flags.aligned
        assert not back[name].flags.writeable


def test_a_row_is_a_copy_and_keeps_no_batch_alive() -> None:
    batch = np.arange(8, dtype=np.float32).reshape(4, 2)
    packed = pack({"y": batch[1:2]})
    batch[:] = 0
    assert unpack(packed)["y"].tolist() == [[2, 3]]
    assert len(packed) < 200


@pytest.mark.parametrize("kind", ["number", "text"])
def test_nobody_can_write_to_it(kind: str) -> None:
    value = np.array([1.0]) if kind == "number" else np.array([b"x"], dtype=object)
    for shared in (unpack(pack({"y": value}))["y"], read_only({"y": value})["y"]):
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = value[0]
    assert value.flags.writeable
