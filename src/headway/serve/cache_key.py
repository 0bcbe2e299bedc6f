"""What makes two requests the same: SHA-256 over the model, the tenant and the exact inputs.

Rule: a caller must never get the answer to a question that it did not ask. So everything that an answer depends on is
in the key, and each part is preceded by its length or is of a fixed one: no two different sequences of parts make the
same bytes, wherever a stranger lets one part end and the next begin.
"""

import struct
from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from headway.core.tensors import Array
from headway.serve.binary_tensors import as_bytes

_COUNT = struct.Struct("<Q")


class Keys:
    """Keys of one model's requests.

    Args:
        parts: what all of them have in common: digest of the bundle, variant, version, digest of the processing, and
            the boundary at which the inputs are taken.
    """

    def __init__(self, *parts: str) -> None:
        self._start = sha256(_COUNT.pack(len(parts)) + b"".join(_sized(part.encode()) for part in parts))

    def of(self, inputs: Mapping[str, Array], tenant: str) -> bytes:
        """The key of one request, 32 bytes.

        Args:
            inputs: in the model's order; elements of text are `bytes` or `str`.
            tenant: who asks.
        """
        found = self._start.copy()
        found.update(_sized(tenant.encode()) + _COUNT.pack(len(inputs)))
        for name, value in inputs.items():
            text = value.dtype.kind in "OSU"
            kind = "BYTES" if text else value.dtype.str
            found.update(_sized(name.encode()) + _sized(kind.encode()) + _shape(value.shape))
            if text:
                found.update(b"".join([_sized(as_bytes(item)) for item in value.flat]))
            else:
                found.update(np.ascontiguousarray(value))  # type: ignore[arg-type]  # as many bytes as were announced
        return found.digest()


def _sized(part: bytes) -> bytes:
    return _COUNT.pack(len(part)) + part


def _shape(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape)
