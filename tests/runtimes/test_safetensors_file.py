"""Our reading of safetensors against the safetensors package, and headers that lie."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from headway.core.errors import FormatError
from headway.runtimes.safetensors_file import read_safetensors


def write(path: Path, header: Any, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_what_the_package_wrote(tmp_path: Path) -> None:
    save_file(
        {
            "a": np.array([[1, np.nan, np.inf], [-np.inf, 0, -np.nan]], np.float32),
            "h": np.array([np.nan, 65504], np.float16),
            "d": np.array([np.inf], np.float64),
            "i": np.arange(5),
            "none": np.zeros((0, 3), np.float32),
        },
        tmp_path / "x.safetensors",
        metadata={"format": "pt"},
    )
    found = {tensor.name: tensor for tensor in read_safetensors(tmp_path / "x.safetensors")}
    assert (found["a"].dtype, found["a"].shape, found["a"].nan, found["a"].infinite) == ("F32", (2, 3), 2, 2)
    assert (found["h"].nan, found["h"].infinite) == (1, 0)
    assert (found["d"].nan, found["d"].infinite) == (0, 1)
    assert (found["i"].dtype, found["i"].elements, found["i"].nan) == ("I64", 5, 0)
    assert found["none"].elements == 0


def test_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    save_torch({"b": torch.tensor([1.0, float("nan"), float("inf")], dtype=torch.bfloat16)}, tmp_path / "b")
    (tensor,) = read_safetensors(tmp_path / "b")
    assert (tensor.dtype, tensor.nan, tensor.infinite) == ("BF16", 1, 1)


def entry(shape: object = (1,), offsets: object = (0, 4), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": entry(shape=[2])}, b"1234"),
        ({"a": entry(offsets=[0, 8], shape=[2])}, b"1234"),
        ({"a": entry(), "b": entry()}, b"1234"),
        ({"a": entry(), "b": entry(offsets=[8, 12])}, b"123456789012"),
        ({"a": entry()}, b"12345"),
        ({"a": entry(shape=[-1], offsets=[4, 0])}, b"1234"),
        ({"a": entry(shape=[True])}, b"1234"),
        ({"a": entry(shape=[1.0])}, b"1234"),
        ({"a": entry(shape=None)}, b"1234"),
        ({"a": entry(dtype="F99")}, b"1234"),
        ({"a": entry(dtype=["F32"])}, b"1234"),
        ({"a": entry(shape=[2**40, 2**40], offsets=[0, 4])}, b"1234"),
        ({"a": {}}, b""),
        ({"a": 1}, b""),
        ({"a": entry(offsets=[0, 4, 4])}, b"1234"),
        ([1], b""),
        ("text", b""),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object, data: bytes) -> None:
    with pytest.raises(FormatError):
        read_safetensors(write(tmp_path / "x", header, data))


@pytest.mark.parametrize("content", [b"", b"1234", struct.pack("<Q", 2**63), struct.pack("<Q", 100) + b"{}"])
def test_truncated(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError):
        read_safetensors(tmp_path / "x")
