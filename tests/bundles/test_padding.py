"""What a manifest may declare of padding."""

import pytest

from headway.bundles.padding import check_padding
from headway.core.tensors import TensorSpec


def spec(name: str, datatype: str = "INT64", shape: tuple[int, ...] = (-1, -1), *dims: str) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape, dims=dims or ("batch", "length")[: len(shape)])


IDS, MASK = spec("ids"), spec("mask")
POOLED = spec("pooled", "FP32", (-1, 8), "batch", "")
TOKENS = spec("tokens", "FP32", (-1, -1, 8), "batch", "length", "")


def test_what_can_be_padded() -> None:
    check_padding((IDS, MASK), (POOLED, TOKENS), {"ids": 1, "mask": 0})
    check_padding((IDS, MASK), (POOLED, TOKENS), {})
    check_padding((spec("picture", "FP16", (-1, 3, -1, -1), "n", "", "h", "w"),), (POOLED,), {"picture": -0.5})
    other = spec("other", "INT64", (-1, -1), "batch", "choices")
    check_padding((IDS, other), (spec("scores", "FP32", (-1, -1), "batch", "choices"),), {"ids": 0})


@pytest.mark.parametrize(
    ("inputs", "outputs", "values", "message"),
    [
        ((IDS,), (POOLED,), {"id": 0}, "'id', which is no input"),
        ((spec("ids", "INT64", (-1, 8)),), (POOLED,), {"ids": 0}, "no dimension after the first varies"),
        ((spec("ids", "INT64", (-1, -1), "batch", ""),), (POOLED,), {"ids": 0}, "varies and has a name"),
        ((TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),), (POOLED,), {"ids": 0}, "varies and has a name"),
        ((spec("ids", "INT64", (1, -1)),), (POOLED,), {"ids": 0}, "no dimension after the first varies"),
        ((spec("ids", "BYTES"),), (POOLED,), {"ids": 0}, "holds BYTES"),
        ((IDS,), (POOLED,), {"ids": 0.5}, "0.5 is no INT64"),
        ((spec("ids", "UINT8"),), (POOLED,), {"ids": -1}, "-1 is no UINT8"),
        ((spec("ids", "UINT8"),), (POOLED,), {"ids": 256}, "256 is no UINT8"),
        ((spec("ids", "FP16"),), (POOLED,), {"ids": 1e9}, "is no FP16"),
        ((IDS,), (POOLED,), {"ids": float("nan")}, "nan is no INT64"),
        ((IDS, MASK), (POOLED,), {"ids": 0}, "dimension 'length' is padded in one input and not in another"),
        ((IDS,), (spec("y", "FP32", (-1, -1), "batch", "other"),), {"ids": 0}, "dimension 1 of output 'y' has no name"),
        ((IDS,), (spec("y", "FP32", (-1, -1), "batch", ""),), {"ids": 0}, "dimension 1 of output 'y' has no name"),
    ],
)
def test_what_cannot_be_padded_is_named(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], values: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_padding(inputs, outputs, values)
