"""BentoML with adaptive batching: one worker, and an array in JSON, all that its batching takes from outside."""

import os
import sys

import bentoml
import numpy as np
from greedy import MAX_ROWS, Model


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, tracing={"sample_rate": 0.0})
class Cnn:
    """The service; BentoML imports this file again in its worker."""

    def __init__(self) -> None:
        self.model = Model(os.environ["MODEL"])

    @bentoml.api(batchable=True, max_batch_size=MAX_ROWS, max_latency_ms=1000)
    def predict(self, rows: np.ndarray, /) -> np.ndarray:
        """[n, *row] -> [n, classes]."""
        return self.model.run(rows.astype(np.float32))


if __name__ == "__main__":
    os.environ["MODEL"] = sys.argv[1]
    command = [sys.executable, "-m", "bentoml", "serve", "server:Cnn", "--host", "127.0.0.1", "--port", sys.argv[2]]
    os.execv(sys.executable, [*command, "--quiet"])  # noqa: S606
