"""A bundle's processing: sealed with raw samples and what became of them, and proved with those wherever it is loaded.

Another version of Pillow or of the tokenizers library may read the same bytes otherwise. The model would then answer
other inputs than it was measured on, and nothing would say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headway.bundles.golden import difference
from headway.bundles.npz import read_npz, write_npz
from headway.core.config import Place
from headway.core.errors import BundleError, ConfigError, FormatError, RequestError
from headway.core.tensors import Array
from headway.processing.declaration import Processing
from headway.processing.pipeline import Pipeline
from headway.processing.stage import Kit, Limits

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle

_MAX_BYTES = 256 << 20  # of a file of samples, which is held in memory while it is replayed
_RAW, _TENSOR = "raw/", "tensor/"


@dataclass(frozen=True)
class RawSample:
    """What a client could send for one declared input, and the model's tensors that it becomes.

    Attributes:
        rows: encoded pictures, or texts in UTF-8.
        tensors: by the model's input, each [rows, ...].
    """

    rows: tuple[bytes, ...]
    tensors: dict[str, Array]


@dataclass(frozen=True)
class Prepared:
    """A declaration that fits its model, and what a bundle needs of it.

    Attributes:
        processing: with its files where they are to lie in the bundle.
        files: by that path, where they are now.
        golden: by declared input.
    """

    processing: Processing
    files: Mapping[str, Path]
    golden: Mapping[str, RawSample]


def golden_path(name: str) -> str:
    """Where the samples of a declared input lie in a bundle."""
    return f"golden/processing-{name}.npz"


def file_path(name: str) -> str:
    """Where the file of a declared input's stages lies in a bundle."""
    return f"processing/{name}.json"


def write_raw(path: Path, sample: RawSample) -> None:
    """Write the samples of one input."""
    # Each row by itself and as numbers: numpy pads text to the longest row, and drops zero bytes at its end.
    rows = {f"{_RAW}{number}": np.frombuffer(row, np.uint8) for number, row in enumerate(sample.rows)}
    write_npz(path, rows | {f"{_TENSOR}{name}": value for name, value in sample.tensors.items()})


def read_raw(path: Path) -> RawSample:
    """Read the samples of one input. Raises `FormatError` where the file holds none."""
    arrays = read_npz(path, max_bytes=_MAX_BYTES)
    tensors = {name.removeprefix(_TENSOR): value for name, value in arrays.items() if name.startswith(_TENSOR)}
    count = len(arrays) - len(tensors)
    rows = [arrays.get(f"{_RAW}{number}") for number in range(count)]
    sound = [row for row in rows if row is not None and row.dtype == np.uint8]
    if not count or not tensors or len(sound) != count:
        raise FormatError("not raw samples: it needs arrays named raw/0, raw/1, ... and tensor/...", where=str(path))
    return RawSample(tuple(row.tobytes() for row in sound), tensors)


def open_processing(bundle: "Bundle", limits: Limits = Limits()) -> Pipeline | None:  # noqa: B008  (it is immutable)
    """The bundle's processing, opened and proved; None where it declares none.

    Raises:
        BundleError: it does not fit the model, a file of it is damaged, or its samples become other tensors here than
            where it was sealed.
        MissingDependencyError: a package that it needs is not installed.
    """
    manifest = bundle.manifest
    processing = manifest.processing
    if processing is None:
        return None
    kit = Kit(
        inputs={spec.name: spec for spec in manifest.inputs},
        outputs={spec.name: spec for spec in manifest.outputs},
        labels=manifest.labels,
        folder=bundle.path,
        limits=limits,
    )

    def place(path: Place) -> str:
        return f"{manifest.name}: processing.{'.'.join(map(str, path))}"

    try:
        pipeline = Pipeline(processing, kit, place)
        for name in processing.inputs:
            _replay(pipeline, name, read_raw(bundle.path / golden_path(name)), place(("inputs", name)))
    except (ConfigError, FormatError) as error:
        raise BundleError(error.message, where=error.where, remedy=error.remedy) from error
    return pipeline


def as_rows(rows: Sequence[bytes | str]) -> Array:
    """Rows as a tensor of BYTES [rows]."""
    found = np.empty(len(rows), dtype=object)
    found[:] = list(rows)
    return found


def _replay(pipeline: Pipeline, name: str, sample: RawSample, where: str) -> None:
    remedy = "Install the version of Pillow or tokenizers that stands in the bundle's lineage."
    try:
        found = pipeline.before({name: as_rows(sample.rows)})
    except RequestError as error:
        message = f"its golden samples are refused: {error.where}: {error.message}"
        raise BundleError(message, where=where, remedy=remedy) from error
    if set(found) != set(sample.tensors):
        raise BundleError(f"its golden samples have {sorted(sample.tensors)}, not {sorted(found)}", where=where)
    for tensor, expected in sample.tensors.items():
        largest, allowed = difference(tensor, expected, found[tensor]), pipeline.tolerance[name]
        if not largest <= allowed:
            raise BundleError(
                f"its golden samples become another {tensor!r} here: it differs by {largest:.3g},"
                f" where {allowed:.3g} is allowed",
                where=where,
                remedy=remedy,
            )
