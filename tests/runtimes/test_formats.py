"""Files are recognised by what is in them, whatever they are called; what is unsafe is never opened."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.bundles.archive import archive
from headway.bundles.bundle import Bundle
from headway.bundles.encryption import encrypt
from headway.core.errors import FormatError
from headway.runtimes.formats import Format, recognise, require_onnx

Seal = Callable[..., Bundle]
AGE_RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return data.getvalue()


def npz() -> bytes:
    data = io.BytesIO()
    np.savez(data, x=np.ones(2))
    return data.getvalue()


def npy() -> bytes:
    data = io.BytesIO()
    np.save(data, np.ones(2))
    return data.getvalue()


def safetensors(header: object = None, data: bytes = b"") -> bytes:
    text = json.dumps({} if header is None else header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (safetensors(), Format.SAFETENSORS),
        (safetensors({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}), Format.SAFETENSORS),
        (npz(), Format.NPZ),
        (npy(), Format.NPY),
        (zipped("manifest.json"), Format.ARCHIVE),
        (zipped("model/data.pkl", "model/data/0"), Format.TORCH_PICKLE),
        (zipped("archive/data.pkl", "archive/code/__torch__.py", "archive/constants.pkl"), Format.TORCHSCRIPT),
        (zipped("m/archive_format", "m/data/weights/x"), Format.TORCH_EXPORT),
        (zipped("readme.txt"), Format.UNKNOWN),
        (pickle.dumps({"a": 1}), Format.PICKLE),
        (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"rest", Format.TORCH_PICKLE),
        (b"age-encryption.org/v1\n-> X25519", Format.ENCRYPTED),
        (b"", Format.UNKNOWN),
        (b"\x80", Format.UNKNOWN),
        (b"hello", Format.UNKNOWN),
        (struct.pack("<Q", 2**62) + b"{", Format.UNKNOWN),
        (struct.pack("<Q", 5) + b"{abc}", Format.UNKNOWN),
        (b"\x08\x09", Format.UNKNOWN),
    ],
)
def test_by_content(tmp_path: Path, content: bytes, expected: Format) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert recognise(tmp_path / "model.onnx") is expected


def test_real_files(seal_linear: Seal, linear_onnx: Path, tmp_path: Path) -> None:
    bundle = seal_linear()
    assert recognise(bundle.path) is Format.BUNDLE
    assert recognise(archive(bundle, tmp_path / "a.zip")) is Format.ARCHIVE
    assert recognise(encrypt(bundle, tmp_path / "b", recipients=[AGE_RECIPIENT])) is Format.ENCRYPTED
    assert recognise(linear_onnx.rename(tmp_path / "model.pt")) is Format.ONNX
    assert recognise(tmp_path) is Format.UNKNOWN
    with pytest.raises(FormatError, match="no such file"):
        recognise(tmp_path / "none")


def test_what_torch_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    weights = {"w": torch.ones(2, 3)}
    torch.save(weights, tmp_path / "new.pt")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "w.bin")
    assert recognise(tmp_path / "new.pt") is Format.TORCH_PICKLE
    assert recognise(tmp_path / "old.pt") is Format.TORCH_PICKLE
    assert recognise(tmp_path / "w.bin") is Format.SAFETENSORS


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_onnx_file(linear_onnx: Path, share: float) -> None:
    data = linear_onnx.read_bytes()
    linear_onnx.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FormatError, match="unknown format") as caught:
        require_onnx(linear_onnx)
    assert caught.value.remedy is not None
    assert "truncated" in caught.value.remedy


def test_a_pickle_is_refused_with_the_way_out_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "touched")))
    with pytest.raises(FormatError, match="Python pickle") as caught:
        require_onnx(path)
    assert caught.value.remedy is not None
    assert "headway convert" in caught.value.remedy
    assert not (tmp_path / "touched").exists()


@given(content=st.binary(max_size=300))
def test_any_bytes_have_a_format(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    recognise(path)
