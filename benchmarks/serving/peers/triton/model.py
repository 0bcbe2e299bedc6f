"""Triton's Python backend: ONNX Runtime over the rows of one batch."""

import json
import sys
from pathlib import Path

PLACES = json.loads(Path(__file__).with_name("places.json").read_text())
sys.path[:0] = PLACES["path"]  # the stub starts a Python of its own and reads no PYTHONPATH

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from greedy import Model  # noqa: E402


class TritonPythonModel:
    """What Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Once."""
        self.model = Model(PLACES["model"])

    def execute(self, requests: list) -> list:
        """The requests of one batch, each with its rows."""
        rows = [triton.get_input_tensor_by_name(request, self.model.input).as_numpy() for request in requests]
        outputs = self.model.run(np.concatenate(rows))
        answers, start = [], 0
        for one in rows:
            tensor = triton.Tensor(self.model.output, outputs[start : start + len(one)])
            answers.append(triton.InferenceResponse([tensor]))
            start += len(one)
        return answers
