"""The idx reader takes what is exactly right, and nothing else."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from headway.core.errors import DataError, FormatError
from headway.tasks.idx import read_idx


def _idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@given(array=arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=5)), packed=st.booleans())
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, packed: bool) -> None:
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(_idx(array)) if packed else _idx(array))
    np.testing.assert_array_equal(read_idx(path, array.ndim), array)


_GOOD = _idx(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes is too short"),
        (_GOOD[:9], "9 bytes is too short"),
        (_GOOD[:-1], r"shape \(2, 3\) needs 6 bytes of data, the file has 5"),
        (_GOOD + b"x", r"shape \(2, 3\) needs 6 bytes of data, the file has 7"),
        (b"\0\0\x0d" + _GOOD[3:], "begins with 00000d02, not 00000802"),
        (b"\0\0\x08\x01" + _GOOD[4:], "begins with 00000801"),
        (b"\0\0\x08\x02" + b"\xff" * 8 + b"x", "needs 18,446,744,065,119,617,025 bytes"),
    ],
)
def test_what_is_not_exactly_right_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_idx(tmp_path / "a", 2)


_PACKED = gzip.compress(_GOOD, mtime=0)  # it stands in tests' names, which must not hang on the time


@pytest.mark.parametrize("content", [_PACKED[:-4], b"no gzip", _PACKED[:15]])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(FormatError, match="damaged gzip"):
        read_idx(tmp_path / "a.gz", 2)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file") as caught:
        read_idx(tmp_path / "none", 1)
    assert caught.value.where == str(tmp_path / "none")
