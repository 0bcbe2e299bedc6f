"""The classification extension: an output as its greatest values with their places and labels.

Source: Triton `docs/protocol/extension_classification.md`.
"""

from collections.abc import Sequence

import numpy as np

from headway.core.errors import RequestError
from headway.core.tensors import Array, TensorSpec
from headway.serve.errors import TooLargeError

_MOST = 1 << 16  # texts of one output: Python writes one by one


def classify(spec: TensorSpec, value: Array, count: int, labels: Sequence[str]) -> tuple[TensorSpec, Array]:
    """The `count` greatest values of each row (of the whole tensor where it has no rows), greatest first.

    Args:
        spec: of the output.
        value: [rows, ...], or any shape where `spec` is not batched.
        count: as many as are wanted; fewer come where there are fewer.
        labels: by index; may be empty.

    Returns:
        BYTES "value:index" or "value:index:label", [rows, count] or [count], and its specification.

    Raises:
        RequestError: the output is text.
        TooLargeError: more classes than are written.
    """
    if value.dtype.kind not in "biuf":
        raise RequestError("only numbers can be classified", where=f"output {spec.name!r}")
    rows = value.reshape(len(value) if spec.batched else 1, -1).astype(np.float64)
    if len(rows) * min(count, rows.shape[1]) > _MOST:
        raise TooLargeError(
            f"{count} classes of {len(rows)} rows; at most {_MOST} are written", where=f"output {spec.name!r}"
        )
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    found = np.empty(order.shape, dtype=object)
    for row, places in enumerate(order):
        for rank, place in enumerate(places):
            text = f"{rows[row, place]:f}:{place}"
            found[row, rank] = (f"{text}:{labels[place]}" if place < len(labels) else text).encode()
    shaped = found if spec.batched else found[0]
    return TensorSpec(name=spec.name, datatype="BYTES", shape=shaped.shape), shaped
