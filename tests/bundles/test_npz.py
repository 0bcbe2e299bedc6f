"""Arrays in `.npz`: nothing is unpickled, and nobody can make it take more memory than allowed."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headway.bundles.npz import read_npz, write_npz
from headway.core.errors import FormatError


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def npy_with(header: str, data: bytes) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    names=st.lists(st.from_regex(r"[a-zA-Z0-9/_.:-]{1,20}", fullmatch=True), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_round_trip(tmp_path: Path, names: list[str], data: st.DataObject) -> None:
    dtypes = st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_, np.float64])
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    arrays = {name: data.draw(hnp.arrays(data.draw(dtypes), data.draw(shapes))) for name in names}
    write_npz(tmp_path / "x.npz", arrays)
    found = read_npz(tmp_path / "x.npz")
    assert list(found) == names
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_what_numpy_wrote_and_text(tmp_path: Path) -> None:
    text = np.array(["a", "bücher"], dtype=object)
    write_npz(tmp_path / "text.npz", {"t": text, "b": np.array([b"\x01\x02", b"x"], dtype=object)})
    found = read_npz(tmp_path / "text.npz")
    assert found["t"].tolist() == ["a", "bücher"]
    assert found["b"].tolist() == [b"\x01\x02", b"x"]
    np.savez_compressed(tmp_path / "numpy.npz", x=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    np.testing.assert_array_equal(read_npz(tmp_path / "numpy.npz")["x"], np.arange(6.0).reshape(2, 3))


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_npz(tmp_path / name, {"x": np.ones(3)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([Evil(tmp_path / "touched")], dtype=object))
    with pytest.raises(FormatError, match="never loaded"):
        read_npz(tmp_path / "evil.npz")
    assert not (tmp_path / "touched").exists()
    with pytest.raises(FormatError, match="cannot be stored"):
        write_npz(tmp_path / "y.npz", {"x": np.array([{}], dtype=object)})


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", b"1234"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b"1234"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"1234"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", b""),
        ("{'descr': '|V0', 'fortran_order': False, 'shape': (99999999999,)}", b""),
        ("__import__('os').system('true')", b""),
        ("{", b""),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: str, data: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", npy_with(header, data))
    with pytest.raises(FormatError):
        read_npz(tmp_path / "x.npz")


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.save(data, np.zeros(50_000_000, np.uint8))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data.getvalue())
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with pytest.raises(FormatError, match="or 10 MB"):
        read_npz(tmp_path / "bomb.npz", max_bytes=10_000_000)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04garbage"])
def test_what_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(FormatError, match="cannot be read"):
        read_npz(tmp_path / "x.npz")
    with pytest.raises(FormatError, match="no such file"):
        read_npz(tmp_path / "none.npz")


def test_truncated(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"x": np.ones(1000)})
    data = (tmp_path / "x.npz").read_bytes()
    for end in (10, 200, len(data) - 30):
        (tmp_path / "x.npz").write_bytes(data[:end])
        with pytest.raises(FormatError):
            read_npz(tmp_path / "x.npz")


def test_a_name_that_stands_twice(tmp_path: Path) -> None:
    data = npy_with("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"1234")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", data)
    with pytest.raises(FormatError, match="same name"):
        read_npz(tmp_path / "x.npz")
