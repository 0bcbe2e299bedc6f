"""Golden samples: inputs and the original's outputs, sealed into the bundle and replayed wherever it is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from headway.bundles.npz import read_npz, write_npz
from headway.core.errors import BundleError, FormatError
from headway.core.tensors import Array

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle
    from headway.bundles.manifest import Variant

# A golden file is held in memory while it is replayed.
_MAX_FILE_BYTES = 256 << 20
_INPUT, _OUTPUT = "input/", "output/"


class Runs(Protocol):
    """What replaying needs of a session."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""


@dataclass(frozen=True)
class Sample:
    """Inputs and outputs by name, each [rows, ...]."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def write_sample(path: Path, sample: Sample) -> None:
    """Write one sample. Raises `FormatError` where an output holds NaN, which compares equal to nothing."""
    for name, value in sample.outputs.items():
        if _has_nan(value):
            raise FormatError("a golden output holds NaN", where=name)
    named = {f"{_INPUT}{name}": value for name, value in sample.inputs.items()}
    write_npz(path, named | {f"{_OUTPUT}{name}": value for name, value in sample.outputs.items()})


def read_sample(path: Path) -> Sample:
    """Read one sample. Raises `FormatError` where the file is not one."""
    arrays = read_npz(path, max_bytes=_MAX_FILE_BYTES)
    inputs = {n.removeprefix(_INPUT): value for n, value in arrays.items() if n.startswith(_INPUT)}
    outputs = {n.removeprefix(_OUTPUT): value for n, value in arrays.items() if n.startswith(_OUTPUT)}
    if not inputs or not outputs or len(inputs) + len(outputs) != len(arrays):
        raise FormatError("not a golden sample: it needs arrays named input/... and output/...", where=str(path))
    return Sample(inputs, outputs)


def errors(samples: Iterable[Sample], session: Runs) -> dict[str, float]:
    """Largest absolute difference from the samples' outputs, by output.

    Text and truth values differ by 0 or infinity. Tolerances are set from this, and it is what `replay` checks.

    Raises:
        BundleError: an output is missing, has another shape or datatype, or holds NaN.
    """
    largest: dict[str, float] = {}
    for sample in samples:
        got = session.run(sample.inputs)
        for name, expected in sample.outputs.items():
            if name not in got:
                raise BundleError(f"the model has no output {name!r}; it has {', '.join(sorted(got))}")
            largest[name] = max(largest.get(name, 0.0), difference(name, expected, got[name]))
    return largest


def replay(bundle: "Bundle", variant: "Variant", session: Runs) -> dict[str, float]:
    """Run every golden sample of `bundle` through `session` and compare.

    Returns:
        The largest absolute difference, by output.

    Raises:
        BundleError: an output differs by more than the variant's tolerance, or in name, shape or datatype, or is NaN.
    """
    where = f"{bundle.manifest.name}: {variant.id}"
    try:
        found = errors(bundle.golden(), session)
    except BundleError as error:
        raise BundleError(error.message, where=error.where or where, remedy=error.remedy) from error
    declared = {spec.name for spec in bundle.manifest.outputs}
    if not declared <= set(found):
        raise BundleError(f"no golden output for {', '.join(sorted(declared - set(found)))}", where=where)
    for name, largest in found.items():
        allowed = variant.tolerance.get(name, 0.0)
        if not largest <= allowed:
            raise BundleError(
                f"output {name!r} differs from its golden output by {largest:.3g}, where {allowed:.3g} is allowed",
                where=where,
                remedy="This machine computes the model differently: try another variant or another runtime version.",
            )
    return found


def check_samples(samples: Sequence[Sample], inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise `BundleError` unless there are samples and each has exactly these inputs and outputs."""
    if not samples:
        raise BundleError("a bundle needs at least one golden sample")
    for number, sample in enumerate(samples):
        if set(sample.inputs) != set(inputs) or set(sample.outputs) != set(outputs):
            raise BundleError(
                f"golden sample {number} has inputs {sorted(sample.inputs)} and outputs {sorted(sample.outputs)},"
                f" but the model has {sorted(inputs)} and {sorted(outputs)}"
            )


def difference(name: str, expected: Array, got: Array) -> float:
    """Largest absolute difference between two arrays; text and truth values differ by 0 or infinity.

    Raises:
        BundleError: they have other shapes, or `got` holds NaN.
    """
    if got.shape != expected.shape:
        raise BundleError(f"output {name!r} has shape {got.shape}, where {expected.shape} was sealed")
    if expected.dtype.kind in "OSUb" or got.dtype.kind in "OSUb":
        same = _text(expected) == _text(got)
        return 0.0 if same else float("inf")
    if _has_nan(got):
        raise BundleError(f"output {name!r} holds NaN")
    apart = got != expected  # equal infinities must not be subtracted
    if not apart.any():
        return 0.0
    # longdouble holds every 64-bit integer exactly where the platform has 80-bit floats
    return float(np.max(np.abs(got[apart].astype(np.longdouble) - expected[apart].astype(np.longdouble))))


def _text(value: Array) -> list[object]:
    return [item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in value.flat]


def _has_nan(value: Array) -> bool:
    return value.dtype.kind == "f" and bool(np.isnan(value).any())
