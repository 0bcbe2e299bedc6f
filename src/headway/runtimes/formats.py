"""Which format a file has, by its content: names and suffixes say nothing that can be relied on."""

import json
import struct
import zipfile
from enum import Enum
from pathlib import Path

from headway.core.errors import FormatError
from headway.runtimes.onnx_file import OnnxFile, read_onnx

_HEAD = 256
_MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
_TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled long, torch.serialization.MAGIC_NUMBER
_MAX_MEMBERS = 100_000


class Format(Enum):
    """What a file is. `title` is how people call it; loading a file whose format is not `safe` runs code in it."""

    BUNDLE = "bundle", "Headway bundle", True
    ARCHIVE = "hw", "Headway bundle archive (.hw)", True
    ENCRYPTED = "age", "file encrypted with age", True
    ONNX = "onnx", "ONNX model", True
    OPENVINO = "openvino", "OpenVINO IR", True
    SAFETENSORS = "safetensors", "safetensors weights", True
    NPZ = "npz", "numpy arrays (.npz)", True
    NPY = "npy", "numpy array (.npy)", True
    TORCH_EXPORT = "pt2", "PyTorch exported program (.pt2)", False
    TORCHSCRIPT = "torchscript", "TorchScript archive", False
    TORCH_PICKLE = "torch-pickle", "pickled PyTorch checkpoint", False
    PICKLE = "pickle", "Python pickle", False
    UNKNOWN = "unknown", "unknown format", True

    def __init__(self, key: str, title: str, safe: bool) -> None:
        self.key = key
        self.title = title
        self.safe = safe


def recognise(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        FormatError: there is nothing at `path`, or it cannot be read.
    """
    if path.is_dir():
        return Format.BUNDLE if (path / "manifest.json").is_file() else Format.UNKNOWN
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, size - 1))
            last = file.read(1)
    except FileNotFoundError as error:
        raise FormatError("no such file", where=str(path), remedy="Check the path.") from error
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if head.startswith(b"age-encryption.org/"):
        return Format.ENCRYPTED
    if head.startswith(b"\x93NUMPY"):
        return Format.NPY
    if head.startswith((b"<?xml", b"<net ")) and b"<net " in head:
        return Format.OPENVINO
    if head.startswith(_TORCH_LEGACY):
        return Format.TORCH_PICKLE
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and last == b".":
        return Format.PICKLE
    if zipfile.is_zipfile(path):
        return _zipped(path)
    if _is_safetensors(path, size):
        return Format.SAFETENSORS
    return Format.ONNX if size and _is_onnx(path) else Format.UNKNOWN


def model_files(path: Path) -> tuple[Path, ...]:
    """Every file of a model, the one that a runtime is given first: OpenVINO IR has its weights in a second.

    Raises:
        FormatError: one of them is not there.
    """
    if recognise(path) is not Format.OPENVINO:
        return (path,)
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise FormatError(f"its weights are missing: {weights.name}", where=str(path), remedy="Put them beside it.")
    return path, weights


def require_onnx(path: Path) -> None:
    """Accept an ONNX file.

    Raises:
        FormatError: it is anything else; the remedy fits what it is.
    """
    found = recognise(path)
    if found is Format.ONNX:
        return
    if path.is_file() and path.stat().st_size == 0:
        raise FormatError("the file is empty", where=str(path))
    remedy = "Give an ONNX file."
    if not found.safe:
        remedy = (
            f"Loading it could run code, so it is never loaded. Its weights: headway convert {path};"
            " an ONNX file: torch.onnx.export, where the model was made."
        )
    elif found is Format.SAFETENSORS:
        remedy = "Weights have no network with them: ship them with a recipe (model: {weights: FILE})."
    elif found in (Format.BUNDLE, Format.ARCHIVE):
        remedy = f"It is sealed already: headway serve {path}"
    elif found is Format.UNKNOWN:
        remedy = "If it was an ONNX file, it is damaged or truncated."
    raise FormatError(f"not an ONNX model, but: {found.title}", where=str(path), remedy=remedy)


def _zipped(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:_MAX_MEMBERS]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return Format.UNKNOWN
    inside = {name.partition("/")[2] or name for name in names}  # PyTorch puts all in one folder of any name
    if "manifest.json" in names:
        return Format.ARCHIVE
    if {"archive_format", "serialized_exported_program.json"} & inside:
        return Format.TORCH_EXPORT
    if "data.pkl" in inside:
        scripted = "constants.pkl" in inside or any(name.startswith("code/") for name in inside)
        return Format.TORCHSCRIPT if scripted else Format.TORCH_PICKLE
    if names and all(name.endswith(".npy") for name in names):
        return Format.NPZ
    return Format.UNKNOWN


def _is_safetensors(path: Path, size: int) -> bool:
    """https://huggingface.co/docs/safetensors: eight bytes of header length, then JSON that starts with a brace."""
    with path.open("rb") as file:
        start = file.read(9)
        if len(start) < 9 or start[8:] != b"{":
            return False
        (length,) = struct.unpack("<Q", start[:8])
        if length > min(size - 8, _MAX_SAFETENSORS_HEADER):
            return False
        try:
            return isinstance(json.loads(b"{" + file.read(length - 1)), dict)
        except (ValueError, RecursionError):
            return False


def _is_onnx(path: Path) -> bool:
    try:
        read_onnx(path)
    except FormatError:
        return False
    return True


def require_whole_onnx(path: Path) -> OnnxFile:
    """What an ONNX file holds, if it holds everything: a bundle has one file for each variant.

    Raises:
        FormatError: it keeps weights in other files, or is not an ONNX model.
    """
    require_onnx(path)
    about = read_onnx(path)
    if about.external:
        raise FormatError(
            f"{len(about.external)} tensors lie in other files ({about.external[0]!r} is one); a bundle would lack it",
            where=str(path),
            remedy="Save it as one file: onnx.save(onnx.load(FILE), 'whole.onnx', save_as_external_data=False)",
        )
    return about
