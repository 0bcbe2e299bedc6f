"""Golden samples: inputs where a model comes without data, the variants' own answers, what a replay may differ by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headway.bundles.golden import Sample, errors
from headway.bundles.npz import read_npz
from headway.bundles.processing import Prepared
from headway.core.errors import DataError
from headway.core.tensors import DYNAMIC, Array, TensorSpec
from headway.runtimes.runtime import Session

Inputs = dict[str, Array]
_ROWS = 32  # golden rows are replayed at every load
# What dimensions other than the batch may be when the model does not say: small first; networks that halve an image
# several times need more.
SIZES = (8, 32, 224)
_SMALLEST = 1e-6  # of a tolerance: outputs that are all zero here may be nearly zero elsewhere


def given_inputs(path: Path, specs: Sequence[TensorSpec], most: int = _ROWS) -> list[Inputs]:
    """Inputs from a `.npz` that holds one array for each input, by name: one row alone, then up to `most` together.

    Raises:
        FormatError: not an `.npz`, or one that holds Python objects.
        DataError: names, datatypes or shapes that do not fit, numbers of rows that differ, or NaN.
    """
    arrays = read_npz(path)
    where = str(path)
    wanted = {spec.name: spec for spec in specs}
    if set(arrays) != set(wanted):
        raise DataError(f"holds {sorted(arrays)}, but the model's inputs are {sorted(wanted)}", where=where)
    fitted = {name: _fit(arrays[name], spec, where) for name, spec in wanted.items()}
    rows = {len(fitted[name]) for name, spec in wanted.items() if spec.batched}
    if len(rows) > 1:
        raise DataError(f"inputs have different numbers of rows: {sorted(rows)}", where=where)
    if not rows:
        return [fitted]
    if not (count := min(rows.pop(), most)):
        raise DataError("holds no rows", where=where)
    cuts = [1] if count == 1 else [1, count]
    return [{name: value[:cut] if wanted[name].batched else value for name, value in fitted.items()} for cut in cuts]


def processed_inputs(prepared: Prepared, specs: Sequence[TensorSpec]) -> list[Inputs]:
    """What processing makes of its samples, as for `given_inputs`; nothing where it does not feed every input."""
    tensors = {name: value for sample in prepared.golden.values() for name, value in sample.tensors.items()}
    if set(tensors) != {spec.name for spec in specs} or not all(spec.batched for spec in specs):
        return []
    count = min(len(value) for value in tensors.values())
    cuts = [1] if count == 1 else [1, count]
    return [{spec.name: tensors[spec.name][:cut] for spec in specs} for cut in cuts]


def random_inputs(specs: Sequence[TensorSpec], *, size: int, seed: int = 0) -> list[Inputs]:
    """Inputs that fit datatype and shape: one row alone, then four together where the batch varies.

    Args:
        size: of every dimension that varies, but for the batch.
        seed: of the random numbers.
    """
    draw = np.random.default_rng(seed)
    batches = (1, 4) if any(spec.batched for spec in specs) else (1,)
    return [{spec.name: _draw(spec, rows, size, draw) for spec in specs} for rows in batches]


def single_rows(samples: Sequence[Sample], specs: Sequence[TensorSpec]) -> list[Sample]:
    """The last sample cut into single rows, where every input and output has its rows."""
    last = samples[-1]
    rows = {len(value) if value.ndim else 0 for value in (*last.inputs.values(), *last.outputs.values())}
    if not all(spec.batched for spec in specs) or len(rows) != 1:
        return []
    return [
        Sample(
            {name: value[row : row + 1] for name, value in last.inputs.items()},
            {name: value[row : row + 1] for name, value in last.outputs.items()},
        )
        for row in range(rows.pop())
    ]


def _fit(value: Array, spec: TensorSpec, where: str) -> Array:
    same_kind = value.dtype == spec.dtype or (
        value.dtype.kind != "O" and spec.dtype.kind != "O" and np.can_cast(value.dtype, spec.dtype, "same_kind")
    )
    if not same_kind or not spec.admits(value.shape):
        raise DataError(
            f"{spec.name!r} is {value.dtype} of shape {list(value.shape)},"
            f" but the model takes {spec.datatype} {list(spec.shape)}",
            where=where,
        )
    cast: Array = value.astype(spec.dtype, copy=False)
    if cast.dtype.kind == "f" and not np.isfinite(cast).all():
        raise DataError(f"{spec.name!r} holds NaN or infinity", where=where)
    return cast


def _draw(spec: TensorSpec, rows: int, size: int, draw: np.random.Generator) -> Array:
    sizes = [size if n == DYNAMIC else n for n in spec.shape]
    if spec.batched:
        sizes[0] = rows
    kind = spec.dtype.kind
    if kind == "f":
        return draw.standard_normal(sizes).astype(spec.dtype)
    if kind == "O":
        return np.full(sizes, "a", dtype=object)
    # Bytes are mostly pixels and take any value. Wider numbers are mostly indices into a table of unknown length, and
    # 0 and 1 are in all of them.
    high = 256 if spec.datatype == "UINT8" else 2
    return draw.integers(0, high, sizes).astype(spec.dtype)


def tolerances(
    outputs: Mapping[str, Sequence[Array]], seen: Mapping[str, float], *, quantized: bool = False
) -> dict[str, float]:
    """What a sound replay on another machine may differ by, for each output.

    Args:
        outputs: the golden outputs.
        seen: largest difference between them and a second run here, with other threads and rows a run.
        quantized: the model computes in 8 bits somewhere.

    Another thread count and batch make ONNX Runtime cut its sums otherwise, as another CPU's vector width does, so
    that a fourfold of what they change is allowed. On one machine they often change nothing, whence a floor, as a
    share of the largest output: 1e-4 for FP32, which holds 6e-8 and loses two or three digits in sums of some thousand
    products; eight roundings for a coarser type; 2% for 8 bits, where a last digit that falls otherwise is a step of
    0.4%, and a few may meet. Whole numbers, truth values and text must be equal.
    """
    allowed = {}
    for name, difference in seen.items():
        numbers = [value[np.isfinite(value)] for value in outputs[name] if value.dtype.kind == "f"]
        floor = 0.0
        for value in numbers:
            share = max(0.02 if quantized else 1e-4, 8 * float(np.finfo(str(value.dtype)).eps))
            floor = max(floor, share * float(np.abs(value).max(initial=0.0)), _SMALLEST)
        allowed[name] = 4 * difference + floor
    return allowed


def with_own(samples: Sequence[Sample], sessions: Mapping[str, Session]) -> list[Sample]:
    """The samples with what each session answers, by its variant's id."""
    return [
        replace(sample, own={id_: session.run(sample.inputs) for id_, session in sessions.items()})
        for sample in samples
    ]


def own_tolerance(samples: Sequence[Sample], id_: str, session: Session, *, quantized: bool) -> dict[str, float]:
    """What a sound replay of a variant may differ from its own answers by; see `tolerances`.

    Digits, sealed with AVX-512 VNNI and replayed on an emulated Haswell: FP32 differed by 2e-7 of the largest output,
    8 bits by 0.14%.
    """
    own = [Sample(sample.inputs, sample.own[id_]) for sample in samples]
    seen = {**dict.fromkeys(own[0].outputs, 0.0), **errors(single_rows(own, session.inputs), session)}
    return tolerances({name: [sample.outputs[name] for sample in own] for name in seen}, seen, quantized=quantized)
