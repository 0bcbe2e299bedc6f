"""Golden samples: inputs, the original's outputs and each variant's own, sealed into the bundle and replayed wherever
it is loaded. The original's say how far a variant is from the model that it stands for, its own whether this machine
computes it as the one did where it was measured: the second bound is by far the closer one.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from headway.bundles.npz import read_npz, write_npz
from headway.core.errors import BundleError, FormatError
from headway.core.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle
    from headway.bundles.manifest import Variant

# A golden file is held in memory while it is replayed.
_MAX_FILE_BYTES = 256 << 20
_INPUT, _OUTPUT, _OWN = "input/", "output/", "own/"


class Runs(Protocol):
    """What replaying needs of a session."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""


@dataclass(frozen=True)
class Sample:
    """Inputs and the original's outputs by name, each [rows, ...].

    Attributes:
        own: outputs of variants that are not the original's, by the variant's id.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    own: dict[str, dict[str, Array]] = field(default_factory=dict)


def write_sample(path: Path, sample: Sample) -> None:
    """Write one sample. Raises `FormatError` where an output holds NaN, which compares equal to nothing."""
    answers = {f"{_OUTPUT}{name}": value for name, value in sample.outputs.items()}
    answers |= {f"{_OWN}{id_}/{name}": value for id_, own in sample.own.items() for name, value in own.items()}
    for name, value in answers.items():
        if _has_nan(value):
            raise FormatError("a golden output holds NaN", where=name)
    write_npz(path, {f"{_INPUT}{name}": value for name, value in sample.inputs.items()} | answers)


def read_sample(path: Path) -> Sample:
    """Read one sample. Raises `FormatError` where the file is not one."""
    arrays = read_npz(path, max_bytes=_MAX_FILE_BYTES)
    inputs = {n.removeprefix(_INPUT): value for n, value in arrays.items() if n.startswith(_INPUT)}
    outputs = {n.removeprefix(_OUTPUT): value for n, value in arrays.items() if n.startswith(_OUTPUT)}
    own: dict[str, dict[str, Array]] = {}
    for id_, _, name in (n.removeprefix(_OWN).partition("/") for n in arrays if n.startswith(_OWN)):
        own.setdefault(id_, {})[name] = arrays[f"{_OWN}{id_}/{name}"]
    if not inputs or not outputs or len(inputs) + len(outputs) + sum(map(len, own.values())) != len(arrays):
        raise FormatError("not a golden sample: it needs arrays named input/... and output/...", where=str(path))
    return Sample(inputs, outputs, own)


def of_rows(inputs: Mapping[str, Array], specs: Iterable[TensorSpec], rows: int) -> dict[str, Array]:
    """The same inputs with so many rows: the first ones, or all again and again. What has no batch stays whole."""
    batched = {spec.name for spec in specs if spec.batched}
    return {n: np.resize(v, (rows, *v.shape[1:])) if n in batched else v for n, v in inputs.items()}


def errors(samples: Iterable[Sample], session: Runs) -> dict[str, float]:
    """Largest absolute difference from the samples' outputs, by output.

    Text and truth values differ by 0 or infinity. Tolerances are set from this, and it is what `replay` checks.

    Raises:
        BundleError: an output is missing, has another shape or datatype, or holds NaN.
    """
    largest: dict[str, float] = {}
    for sample in samples:
        _widen(largest, sample.outputs, session.run(sample.inputs))
    return largest


def replay(bundle: "Bundle", variant: "Variant", session: Runs) -> dict[str, float]:
    """Run every golden sample of `bundle` through `session` and compare, with the original's and with its own outputs.

    Returns:
        The largest absolute difference from the original's, by output.

    Raises:
        BundleError: an output differs by more than the variant's tolerance, or in name, shape or datatype, or is NaN.
    """
    where = f"{bundle.manifest.name}: {variant.id}"
    largest: dict[str, float] = {}
    own: dict[str, float] = {}
    try:
        for sample in bundle.golden():
            got = session.run(sample.inputs)
            _widen(largest, sample.outputs, got)
            _widen(own, sample.own.get(variant.id, {}), got)
    except BundleError as error:
        raise BundleError(error.message, where=error.where or where, remedy=error.remedy) from error
    declared = {spec.name for spec in bundle.manifest.outputs}
    _hold(largest, variant.tolerance, declared, "golden", where)
    if variant.own_tolerance:
        _hold(own, variant.own_tolerance, declared, "own sealed", where)
    return largest


def _widen(largest: dict[str, float], expected: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    for name, value in expected.items():
        if name not in got:
            raise BundleError(f"the model has no output {name!r}; it has {', '.join(sorted(got))}")
        largest[name] = max(largest.get(name, 0.0), difference(name, value, got[name]))


def _hold(
    found: Mapping[str, float], tolerance: Mapping[str, float], declared: Set[str], kind: str, where: str
) -> None:
    if not declared <= set(found):
        raise BundleError(f"no {kind} output for {', '.join(sorted(declared - set(found)))}", where=where)
    for name, largest in found.items():
        allowed = tolerance.get(name, 0.0)
        if not largest <= allowed:
            raise BundleError(
                f"output {name!r} differs from its {kind} output by {largest:.3g}, where {allowed:.3g} is allowed",
                where=where,
                remedy="This machine computes the model differently: try another variant or another runtime version.",
            )


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
