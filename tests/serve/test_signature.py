"""What a model takes, and what is said of a request that does not fit."""

import numpy as np
import pytest

from headway.core.errors import RequestError
from headway.core.tensors import Array, TensorSpec
from headway.serve.signature import Signature

SPECS = (
    TensorSpec(name="image", datatype="FP32", shape=(-1, 3, -1)),
    TensorSpec(name="label", datatype="BYTES", shape=(-1,)),
    TensorSpec(name="scale", datatype="FP32", shape=(1,)),
)


def inputs(**changed: Array | None) -> dict[str, Array]:
    fitting = {
        "scale": np.ones(1, np.float32),
        "image": np.ones((2, 3, 5), np.float32),
        "label": np.array([b"a", b"b"], dtype=object),
    }
    return {name: value for name, value in (fitting | changed).items() if value is not None}


def test_what_fits_comes_back_in_the_models_order_with_its_rows() -> None:
    checked = Signature(SPECS, shares_runs=True).check(inputs())
    assert list(checked.inputs) == ["image", "label", "scale"]
    assert checked.rows == 2
    assert checked.lane == ((3, 5),), "of what varies, but for the rows"
    assert Signature(SPECS, shares_runs=False).check(inputs()).lane is None


def test_text_arrays_of_numpy_are_text() -> None:
    assert Signature(SPECS, shares_runs=False).check(inputs(label=np.array(["a", "b"]))).rows == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": None}, "input 'image' is missing"),
        ({"extra": np.ones(1)}, "no input is called 'extra'"),
        ({"image": None, "imagé": np.ones(1)}, "no input is called 'imagé'"),
        ({"image": np.ones((2, 3, 5))}, r"input 'image': the datatype must be FP32 \(numpy float32\), not float64"),
        ({"image": np.ones((2, 4, 5), np.float32)}, r"input 'image': shape \[2, 4, 5\] does not fit \[-1, 3, -1\]"),
        ({"image": np.ones((2, 3), np.float32)}, r"shape \[2, 3\] does not fit"),
        ({"image": np.ones((0, 3, 5), np.float32)}, r"shape \[0, 3, 5\] does not fit"),
        ({"image": np.ones((3, 3, 5), np.float32)}, "input 'label': 2 rows, where other inputs have 3"),
        ({"label": np.ones(2)}, "the datatype must be BYTES"),
        ({"scale": np.ones(2, np.float32)}, "input 'scale': shape"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Array | None], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Signature(SPECS, shares_runs=True).check(inputs(**changed))
