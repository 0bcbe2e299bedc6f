"""What a model does with nothing around it: ONNX Runtime in a loop, on the core that servers are given.

python -m benchmarks.serving.bare_session MODEL.onnx SECONDS
"""

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
from benchmarks.serving.models import ROOT
from benchmarks.serving.servers import SERVER_CORE

SIZES = (1, 2, 4, 8, 16, 32)


def measure(file: Path, seconds: float) -> dict[int, float]:
    """Rows a second by batch size, in a process of its own."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.serving.bare_session", file]
    asked = subprocess.run([*command, str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {int(size): float(rate) for size, rate in json.loads(asked.stdout).items()}


def main(file: str, seconds: str) -> None:
    """The command: sizes take turns until the time is over."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    inputs = {n: {given.name: np.random.default_rng(1).random((n, *given.shape[1:]), np.float32)} for n in SIZES}
    taken: dict[int, list[float]] = {n: [] for n in SIZES}
    end = perf_counter() + float(seconds)
    while perf_counter() < end or not taken[SIZES[-1]]:
        for size in SIZES:
            start = perf_counter()
            for _ in range(SIZES[-1] // size):  # as many rows at every size
                session.run(None, inputs[size])
            taken[size].append(perf_counter() - start)
    print(json.dumps({size: SIZES[-1] * len(times) / sum(times) for size, times in taken.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
