"""Tensors by description: one table of datatypes, and the specification of an input or an output.

Names are those of the Open Inference Protocol (KServe V2, "Tensor Data Types").
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from headway.core.errors import FormatError, RequestError

Array = NDArray[np.generic]
DYNAMIC = -1


@dataclass(frozen=True)
class DataType:
    """One row of the table.

    Attributes:
        name: Open Inference Protocol name.
        numpy: numpy dtype character code; None where numpy has no such type.
        torch: attribute of the torch module; None where torch has no such type.
        onnx: `onnx.TensorProto.DataType` number.
        ort: how ONNX Runtime spells the type of a tensor.
        size: bytes an element; 0 if it varies.
    """

    name: str
    numpy: str | None
    torch: str | None
    onnx: int
    ort: str
    size: int


DATATYPES: tuple[DataType, ...] = (
    DataType("BOOL", "?", "bool", 9, "tensor(bool)", 1),
    DataType("UINT8", "u1", "uint8", 2, "tensor(uint8)", 1),
    DataType("UINT16", "u2", "uint16", 4, "tensor(uint16)", 2),
    DataType("UINT32", "u4", "uint32", 12, "tensor(uint32)", 4),
    DataType("UINT64", "u8", "uint64", 13, "tensor(uint64)", 8),
    DataType("INT8", "i1", "int8", 3, "tensor(int8)", 1),
    DataType("INT16", "i2", "int16", 5, "tensor(int16)", 2),
    DataType("INT32", "i4", "int32", 6, "tensor(int32)", 4),
    DataType("INT64", "i8", "int64", 7, "tensor(int64)", 8),
    DataType("FP16", "f2", "float16", 10, "tensor(float16)", 2),
    DataType("FP32", "f4", "float32", 1, "tensor(float)", 4),
    DataType("FP64", "f8", "float64", 11, "tensor(double)", 8),
    DataType("BF16", None, "bfloat16", 16, "tensor(bfloat16)", 2),
    DataType("BYTES", "O", None, 8, "tensor(string)", 0),
)


@cache
def datatype(name: str) -> DataType:
    """The row called `name` in the Open Inference Protocol. Raises `RequestError` where there is none."""
    for row in DATATYPES:
        if row.name == name:
            return row
    raise RequestError(f"unknown datatype {name!r}; known: {', '.join(row.name for row in DATATYPES)}")


@cache
def from_numpy(dtype: np.dtype[np.generic]) -> DataType:
    """The row of a numpy dtype. Raises `FormatError` for one that no tensor has (complex, dates)."""
    if dtype.kind in "SUO":
        return datatype("BYTES")
    for row in DATATYPES:
        if row.numpy is not None and np.dtype(row.numpy) == dtype:
            return row
    raise FormatError(f"numpy dtype {dtype} has no counterpart in the Open Inference Protocol")


@cache
def from_ort(spelling: str) -> DataType:
    """The row that ONNX Runtime spells `tensor(...)`. Raises `FormatError` for sequences, maps and others."""
    for row in DATATYPES:
        if row.ort == spelling:
            return row
    raise FormatError(f"an input or output of type {spelling} cannot be served", remedy="Only tensors can.")


class TensorSpec(BaseModel):
    """What an input or an output looks like.

    Attributes:
        name: as the model calls it.
        datatype: Open Inference Protocol name.
        shape: one number a dimension, -1 where it varies. The first is the batch.
        dims: a name for each dimension, such as `("batch", "channel", "height", "width")`; "" where it has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    datatype: str
    shape: tuple[int, ...]
    dims: tuple[str, ...] = ()

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return datatype(value).name
        except RequestError as error:  # pydantic collects no other error than ValueError
            raise ValueError(error.message) from error

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype. Raises `FormatError` for BF16, which numpy lacks."""
        code = datatype(self.datatype).numpy
        if code is None:
            raise FormatError(f"{self.datatype} has no numpy dtype", where=self.name)
        return np.dtype(code)

    @property
    def batched(self) -> bool:
        """Whether the first dimension varies, so that rows of several requests can share a run."""
        return bool(self.shape) and self.shape[0] == DYNAMIC

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of `shape` fits."""
        return len(shape) == len(self.shape) and all(
            want in (DYNAMIC, have) for want, have in zip(self.shape, shape, strict=True)
        )
