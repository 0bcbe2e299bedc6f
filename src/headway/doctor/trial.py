"""The small real run: each runtime that is ready runs a tiny model, and torch takes a training step.

Each in a process of its own, so that one that is killed by an instruction that this processor lacks, or never ends, is
a finding too. Run as `python -m headway.doctor.trial RUNTIME [MODEL.onnx [DEVICE]]`, it says what it found in one line
of JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from headway.core import plugins
from headway.core.errors import HeadwayError
from headway.doctor.finding import Finding, fail, ok
from headway.doctor.probe import Probe
from headway.runtimes.wire import encode

_AREA = "run"
_SECONDS = 120
_TORCH = "torch"
_FLOAT, _WEIGHTS = 1, np.array([[1, 0, -1], [2, 1, 0], [0, 3, 1], [1, 1, 1]], np.float32)


class Outcome(NamedTuple):
    """Of a trial: it gave the right numbers, wrong ones, could not be made, was not made, or ended without a word."""

    state: Literal["right", "wrong", "absent", "untried", "died"]
    text: str
    fix: str = ""


def check(probe: Probe) -> list[Finding]:
    """Run everything that is ready."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "tiny.onnx")
        model.write_bytes(tiny_model())
        found = [_try(name, str(model)) for name in plugins.names("headway.runtimes")]
    if "torch" in probe.packages:
        found.append(_try(_TORCH))
    return found


def _try(name: str, *arguments: str) -> Finding:
    what, tried = "a torch step" if name == _TORCH else name, attempt(name, *arguments)
    if tried.state in ("wrong", "died"):
        return fail(_AREA, what, tried.text, tried.fix)
    return ok(_AREA, what, tried.text)


def attempt(name: str, *arguments: str) -> Outcome:
    """Run the tiny model in a runtime, or a torch step, in a process of its own.

    Args:
        name: of the runtime, or "torch".
        arguments: the tiny model's file, and a device, by default the CPU.
    """
    command = [sys.executable, "-m", "headway.doctor.trial", name, *arguments]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Outcome("died", f"did not end within {_SECONDS} s", "Look at the machine's load, and install it anew.")
    if asked.returncode < 0:
        words = f"was killed by signal {-asked.returncode}"
        return Outcome("died", words, "Install a build for this processor: signal 4 is an unknown instruction.")
    fix = f"Install {name} anew: pip install --force-reinstall {name}"
    try:
        said = json.loads(asked.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Outcome("died", last[:300], fix)
    return Outcome(said["state"], said["text"], fix if said["state"] == "wrong" else "")


def tiny_model() -> bytes:
    """An ONNX file of 159 bytes that computes `y = x @ weights`, [batch, 4] -> [batch, 3], made without onnx.

    Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
    """

    def tensor(name: str, columns: int) -> bytes:
        shape = encode(1, encode(2, "batch")) + encode(1, encode(1, columns))
        return encode(1, name) + encode(2, encode(1, encode(1, _FLOAT) + encode(2, shape)))

    node = encode(1, "x") + encode(1, "weights") + encode(2, "y") + encode(4, "MatMul")
    weights = encode(1, 4) + encode(1, 3) + encode(2, _FLOAT) + encode(8, "weights") + encode(9, _WEIGHTS.tobytes())
    graph = encode(1, node) + encode(2, "tiny") + encode(5, weights)
    graph += encode(11, tensor("x", 4)) + encode(12, tensor("y", 3))
    return encode(1, 8) + encode(7, graph) + encode(8, encode(2, 17))


def _run(name: str, model: Path, device: str = "cpu") -> dict[str, Any]:
    """Run the tiny model in one runtime on one device."""
    try:
        runtime = plugins.load("headway.runtimes", name)()
        availability = runtime.available(device)
        if not availability.ready:
            return {"state": "absent", "text": availability.detail}
        if "onnx" not in runtime.formats:
            reads = ", ".join(sorted(runtime.formats))
            return {"state": "untried", "text": f"{availability.detail}; not run: it reads {reads}, not ONNX"}
        start = time.perf_counter()
        session = runtime.load(model, device=device)
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        found = session.run({"x": x})["y"]
        session.close()
    except HeadwayError as error:
        return {"state": "wrong", "text": error.message}
    if not np.allclose(found, x @ _WEIGHTS):
        return {"state": "wrong", "text": "it computes a product of two small matrices wrongly"}
    took = (time.perf_counter() - start) * 1000
    return {"state": "right", "text": f"{availability.detail}: loaded and ran in {took:.0f} ms, the numbers are right"}


def _step() -> dict[str, Any]:
    """One training step on the CPU, and on the accelerator that torch finds."""
    import torch

    devices = ["cpu"]
    if torch.accelerator.is_available():
        devices.append(str(torch.accelerator.current_accelerator()))
    for device in devices:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, losses = torch.ones(2, 4, device=device), []
        for _ in range(2):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        if not losses[1] < losses[0]:
            return {"state": "wrong", "text": f"a step on {device} does not lower the loss"}
    return {"state": "right", "text": f"torch {torch.__version__}: a step on {' and '.join(devices)} lowers the loss"}


if __name__ == "__main__":
    said = _step() if sys.argv[1] == _TORCH else _run(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    sys.stdout.write(json.dumps(said) + "\n")
