"""What a manifest may declare of padding: which inputs may be padded, with what, and what shapes that takes."""

from collections.abc import Mapping, Sequence

import numpy as np

from headway.core.tensors import DYNAMIC, TensorSpec


def varying(spec: TensorSpec) -> dict[int, str]:
    """The dimensions after the first that vary, and their names; "" for one without a name."""
    return {
        axis: spec.dims[axis] if spec.dims else ""
        for axis, size in enumerate(spec.shape)
        if axis and size == DYNAMIC
    }  # fmt: skip


def check_padding(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], values: Mapping[str, float]) -> None:
    """Raise `ValueError` unless each of `values` suits an input, and each output can be cut back."""
    known = {spec.name: spec for spec in inputs}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"padding for {name!r}, which is no input")
        _check_value(known[name], value)
    padded = {dim for name in values for dim in varying(known[name]).values()}
    fixed = {dim for name, spec in known.items() if name not in values for dim in varying(spec).values()}
    if both := padded & fixed:
        raise ValueError(f"dimension {min(both)!r} is padded in one input and not in another")
    for spec in outputs if values else ():
        for axis, dim in varying(spec).items():
            if dim not in padded | fixed or not dim:
                raise ValueError(
                    f"dimension {axis} of output {spec.name!r} has no name that an input's has, so padding could not be"
                    " cut off it"
                )


def _check_value(spec: TensorSpec, value: float) -> None:
    dims = varying(spec)
    if not spec.batched or not dims or "" in dims.values():
        raise ValueError(f"padding for {spec.name!r}, of which no dimension after the first varies and has a name")
    if spec.datatype in ("BYTES", "BF16"):
        raise ValueError(f"padding for {spec.name!r}, which holds {spec.datatype}")
    with np.errstate(all="ignore"):
        kept = np.array(value).astype(spec.dtype)
    exact = spec.dtype.kind == "f" or float(kept) == value
    if not (exact and np.isfinite(kept)):
        raise ValueError(f"padding for {spec.name!r}: {value:g} is no {spec.datatype}")
