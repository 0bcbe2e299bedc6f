"""8 bits for OpenVINO, made by NNCF in an environment of its own: IR from a 32-bit graph and calibration rows.

OpenVINO wants its 8 bits in a form of its own (docs/decisions/0042). NNCF (https://github.com/openvinotoolkit/nncf)
is what its makers calibrate with: fake-quantize operators with ranges of its own choosing, and corrected biases.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from headway.compress.quantize import QuantizeConfig, match
from headway.compress.step import JsonRecord, StepContext
from headway.core.files import digest_file
from headway.core.machine import Int8Choice
from headway.core.progress import SILENT, Progress
from headway.core.tensors import Array
from headway.export.environments.environment import HERE, environment
from headway.runtimes.openvino import read_model, save_ir

NAME, _SCRIPT = "nncf", "nncf_quantize.py"
# Where nothing sums u8 x s8 products in 32 bits, NNCF's makers advise half a range for the first layers alone.
_OVERFLOW = {"reduced": "first_layer_only", "full": "disable"}


def key() -> dict[str, str]:
    """What the result depends on beside graph, rows and settings."""
    ours = {file: digest_file(HERE / file) for file in (f"{NAME}.txt", _SCRIPT)}
    return {**ours, "openvino": version("openvino")}


def quantize(graph: Path, out: Path, config: QuantizeConfig, context: StepContext) -> JsonRecord:
    """Write the 8-bit form of an ONNX file as IR, calibrated on the rows that `config` takes of the calibration part.

    Args:
        graph: in 32 bits.
        out: an `.xml` file; its weights go beside it.
        config: rows, layers that stay in 32 bits if it names any, and the range of weights are taken from it. How
            ranges are found, and which other layers stay in 32 bits, is NNCF's own affair.
        context: data, machine and progress.

    Returns:
        The tool, its versions, and what it was told.

    Raises:
        MissingDependencyError: the environment cannot be made.
        WorkerError: NNCF failed.
        TaskError: the task's inputs do not fit the graph's.
        ConfigError: `keep_fp32` names a node that is not there.
    """
    from headway.compress import qdq

    part, choice = context.task.parts.calibration, config.choice(context.machine.int8)
    inputs = read_model(graph).inputs
    rows = (match(inputs, part.batch(row[None])[0]) for row in config.calibration_rows(len(part)))
    if not config.keep_fp32:
        return calibrate(graph, out, rows, choice, progress=context.progress)
    model = qdq.prepare(graph)  # in which nodes have the names that a recipe gives
    kept = qdq.float_nodes(model, qdq.weighted_nodes(model), config.keep_fp32)
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        named = Path(folder, "model.onnx")
        named.write_bytes(model.SerializeToString())
        return calibrate(named, out, rows, choice, ignored=kept, progress=context.progress)


def calibrate(
    graph: Path,
    out: Path,
    rows: Iterable[Mapping[str, Array]],
    choice: Int8Choice,
    *,
    ignored: tuple[str, ...] = (),
    progress: Progress = SILENT,
) -> JsonRecord:
    """The same from rows alone.

    Args:
        rows: inputs by name, each [1, ...].
        choice: the range of weights.
        ignored: names of nodes that stay in 32 bits.

    Raises:
        MissingDependencyError: the environment cannot be made.
        WorkerError: NNCF failed.
    """
    python = environment(NAME, progress)
    with tempfile.TemporaryDirectory(prefix="headway-") as scratch:
        folder = Path(scratch, "rows")
        folder.mkdir()
        save_ir(read_model(graph), Path(scratch, "float.xml"))
        for number, row in enumerate(rows):
            np.savez(folder / f"{number:06}.npz", **row)  # type: ignore[arg-type]
        settings = {"overflow_fix": _OVERFLOW[choice.weight_range], "ignored": list(ignored)}
        record = python.run(
            HERE / _SCRIPT,
            Path(scratch, "float.xml"),
            folder,
            Path(scratch, out.name),
            json.dumps(settings),
            title="calibrate for OpenVINO (NNCF)",
            progress=progress,
        )
        save_ir(read_model(Path(scratch, out.name)), out)  # it can be read here, and its weights are in 32 bits
    progress.say(f"int8 for OpenVINO by NNCF {record['versions']['nncf']}: {record['quantizers']} places in 8 bits")
    return {**record, "weight_range": choice.weight_range, "reason": choice.reason}
