"""Fashion-MNIST's four files, made up."""

import gzip
import struct
from pathlib import Path

import numpy as np


def write(folder: Path, *, rows: int = 40, packed: bool = False, side: int = 28, labels: int = 10) -> None:
    """Write them; pictures are noise, brighter where the class is higher."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("train", "t10k"):
        classes = (np.arange(rows) % labels).astype(np.uint8)
        images = rng.integers(0, 56, (rows, side, side), dtype=np.uint8) + 20 * classes[:, None, None]
        for kind, array in (("images-idx3", images), ("labels-idx1", classes)):
            content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            path = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
