"""Which widths ONNX Runtime's kernels like on this machine, found by timing them.

A kernel works on blocks of channels, so the time of a layer rises in steps: with blocks of 16, 33 channels cost as much
as 48. Two layers with `width` channels between them are timed for even widths of 32 to 96, in turn. In steps of b, a
width in the middle of a step costs all that the step adds, in a straight line half of it; so the largest b for which
the middle costs much more than half is the block.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import helper, numpy_helper

from headway.core.errors import StorageError
from headway.core.files import digest_json, home, write_atomic
from headway.core.machine import Machine
from headway.core.progress import Progress
from headway.core.tensors import Array
from headway.measure.latency import interleave
from headway.runtimes.onnx_runtime import OnnxRuntime

Kind = Literal["convolution", "linear"]
Timings = Mapping[int, float]  # milliseconds by width

_LEAST, _MOST = 32, 96
WIDTHS = tuple(range(_LEAST, _MOST + 1, 2))
_BLOCKS = (32, 16, 8, 4)
_STEP = 0.6  # between a straight line's 0.5 and a staircase's 1
_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 0.5, 10, 50


def blocks(machine: Machine, threads: int, progress: Progress) -> dict[Kind, int]:
    """Channels in a block, for each kind of layer; measured once (a few seconds) and kept under `HEADWAY_HOME`.

    Args:
        machine: this one.
        threads: of a run.
        progress: told of what was found.
    """
    about = machine.model_dump(include={"system", "architecture", "cpu", "cores", "instruction_sets"})
    key = digest_json({"machine": about, "threads": threads, "onnxruntime": version("onnxruntime"), "form": 1})
    file = home() / "cache" / "kernels" / f"{key}.json"
    kept = _read(file)
    if kept is not None:
        return kept
    timings: dict[Kind, dict[int, float]] = {kind: _measure(kind, threads) for kind in get_args(Kind)}
    found = {kind: block(taken) for kind, taken in timings.items()}
    progress.say("kernels here like widths in multiples of " + ", ".join(f"{b} ({k})" for k, b in found.items()))
    try:
        write_atomic(file, json.dumps({"blocks": found, "milliseconds": timings}, indent=2) + "\n")
    except (StorageError, OSError) as error:
        progress.say(f"not kept, and to be measured again: {error}")
    return found


def block(milliseconds: Timings) -> int:
    """The block that timings of all `WIDTHS` show; 1 where they rise in a line."""
    rise = milliseconds[_MOST] - milliseconds[_LEAST]
    for size in _BLOCKS:
        starts = range(_LEAST, _MOST, size)
        if sum(milliseconds[at + size // 2] - milliseconds[at] for at in starts) > _STEP * rise > 0:
            return size
    return 1


def _measure(kind: Kind, threads: int) -> dict[int, float]:
    """Milliseconds of the quickest run of each width: what disturbs a run only adds to it."""
    runs: dict[str, Callable[[], object]] = {}
    sessions = []
    with tempfile.TemporaryDirectory() as folder:
        for width in WIDTHS:
            file = Path(folder) / f"{width}.onnx"
            model, values = _pair(kind, width)
            onnx.save(model, file)
            sessions.append(OnnxRuntime().load(file, threads=threads))
            runs[str(width)] = partial(sessions[-1].run, {"x": values})
        taken = interleave(runs, seconds=_SECONDS, least_rounds=_LEAST_ROUNDS, most_rounds=_MOST_ROUNDS)
    for session in sessions:
        session.close()
    return {int(name): float(ms.min()) for name, ms in taken.items()}


def _pair(kind: Kind, width: int) -> tuple[onnx.ModelProto, Array]:
    """Two layers with a rectifier between them, `width` channels wide in the middle, and an input."""
    draw, conv = np.random.default_rng(0), kind == "convolution"
    shape = [1, 64, 14, 14] if conv else [64, 256]
    weights = [(width, 64, 3, 3), (64, width, 3, 3)] if conv else [(256, width), (width, 256)]
    layer = partial(helper.make_node, "Conv", pads=[1] * 4) if conv else partial(helper.make_node, "MatMul")
    nodes = [layer(["x", "in"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), layer(["b", "out"], ["y"])]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    values = [
        numpy_helper.from_array(draw.normal(size=size).astype(np.float32) / 32, name)
        for name, size in zip(("in", "out"), weights, strict=True)
    ]
    graph = helper.make_graph(nodes, "pair", ends[:1], ends[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model, np.ones(shape, np.float32)


def _read(file: Path) -> dict[Kind, int] | None:
    """What was kept; None where it is absent or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["blocks"]
        kept: dict[Kind, int] = {kind: found[kind] for kind in get_args(Kind)}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return kept if all(size in (*_BLOCKS, 1) for size in kept.values()) else None
