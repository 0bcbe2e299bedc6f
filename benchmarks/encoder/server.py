"""Headway with its runs counted; and with the batches that others form.

python -m benchmarks.encoder.server BUNDLE COUNTS PICK [SETTING=VALUE ...]

COUNTS is a file that another process may read at any time (`read`). PICK is `ours`, or `arrival`: whoever waits shares
a run, up to its rows, however long the longest is. Settings are those of `headway.Server`. The server's URL is printed.
"""

import mmap
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headway.core.tensors import Array


class Counts(NamedTuple):
    """What was run since the server began; or between two moments, as a difference.

    Attributes:
        runs: of the model.
        rows: in them.
        run_tokens: elements of `input_ids`, padding included.
        real_tokens: those that the mask shows.
    """

    runs: float
    rows: float
    run_tokens: float
    real_tokens: float


def read(path: Path) -> Counts:
    """The counts so far."""
    return Counts(*np.fromfile(path, np.float64))


def count(path: Path) -> None:
    """Count every run from now on into a file."""
    from headway.runtimes.onnx_runtime import OnnxSession

    path.write_bytes(bytes(8 * len(Counts._fields)))
    with path.open("r+b") as file:
        totals = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
    whole = OnnxSession.run

    def run(session: OnnxSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows, tokens = inputs["input_ids"].shape
        for place, seen in enumerate((1, rows, rows * tokens, int(inputs["attention_mask"].sum()))):
            totals[place] += seen
        return whole(session, inputs)

    OnnxSession.run = run  # type: ignore[method-assign]


def in_order_of_arrival() -> None:
    """Batches as a server forms them that does not look at lengths."""
    from headway.serve import batcher

    def pick(waiting: Sequence[Any], *, max_rows: int, max_padding: float, overhead: float) -> list[Any]:
        return list(waiting[:max_rows])  # each request has one row here

    batcher.pick = pick


def main(bundle: str, counts: str, how: str, *settings: str) -> None:
    """The command."""
    from headway.serve.config import ServeConfig
    from headway.serve.server import Server

    count(Path(counts))
    if how == "arrival":
        in_order_of_arrival()
    given = dict(setting.split("=") for setting in settings)
    config = ServeConfig(http_port=0, grpc_port=None, threads=1, choose_seconds=0, log_requests="none", **given)  # type: ignore[arg-type]
    Server([bundle], config, on_ready=lambda ready: print(ready.url, flush=True)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
