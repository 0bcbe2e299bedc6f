"""One table of datatypes, and it agrees with numpy, torch, ONNX and ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch

from headway.core.errors import FormatError, RequestError
from headway.core.tensors import DATATYPES, DataType, TensorSpec, datatype, from_numpy, from_ort


@pytest.mark.parametrize("row", DATATYPES, ids=lambda row: row.name)
def test_every_row_agrees_with_the_libraries(row: DataType) -> None:
    assert datatype(row.name) is row
    assert from_ort(row.ort) is row
    if row.numpy is not None and row.name != "BYTES":
        assert from_numpy(np.dtype(row.numpy)) is row
        assert np.dtype(row.numpy).itemsize == row.size
        assert onnx.helper.tensor_dtype_to_np_dtype(row.onnx) == np.dtype(row.numpy)
    if row.torch is not None:
        assert getattr(torch, row.torch).itemsize == row.size


def test_text_is_bytes() -> None:
    assert from_numpy(np.array(["a"]).dtype).name == "BYTES"
    assert from_numpy(np.array([b"a"], dtype=object).dtype).name == "BYTES"


def test_unknown_types_are_refused() -> None:
    with pytest.raises(RequestError, match="FP31"):
        datatype("FP31")
    with pytest.raises(FormatError):
        from_numpy(np.dtype("complex64"))
    with pytest.raises(FormatError):
        from_ort("seq(tensor(float))")
    with pytest.raises(FormatError):
        _ = TensorSpec(name="x", datatype="BF16", shape=(1,)).dtype


def test_a_spec_admits_what_fits() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
    assert spec.batched
    assert spec.admits((7, 3))
    assert not spec.admits((7, 4))
    assert not spec.admits((7, 3, 1))
    assert not TensorSpec(name="x", datatype="FP32", shape=(1, 3)).batched
