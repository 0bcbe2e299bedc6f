"""NNCF and OpenVINO, run by a Python of their own and spoken to over pipes; stands alone.

quantize GRAPH CALIBRATION FOLDER    GRAPH with NNCF's defaults, as nncf.onnx and as OpenVINO's nncf.xml
load FILE                            a session of one thread
answer INPUTS OUTPUTS                runs every 64 rows of a .npy file
again                                runs the first row of what was answered last
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Do what each line asks, and say when it is done."""
    told = sys.stdout
    session, row = None, None
    for line in sys.stdin:
        command, *words = line.rstrip("\n").split("\t")
        with contextlib.redirect_stdout(sys.stderr):
            if command == "quantize":
                quantize(words[0], np.load(words[1]), Path(words[2]))
            elif command == "load":
                session = load(words[0])
            elif command == "answer":
                rows = np.load(words[0])
                row = rows[:1]
                batches = np.split(rows, range(64, len(rows), 64))
                np.save(words[1], np.concatenate([session([batch])[0] for batch in batches]))
            elif command == "again":
                session([row])
        print("done", file=told, flush=True)


def quantize(graph: str, rows: "np.typing.NDArray[np.float32]", folder: Path) -> None:
    """Write both forms of a graph."""
    import nncf
    import onnx
    import openvino

    model = onnx.load(graph)
    name = model.graph.input[0].name
    one = [rows[i : i + 1] for i in range(len(rows))]
    onnx.save(nncf.quantize(model, nncf.Dataset(one, lambda row: {name: row})), folder / "nncf.onnx")
    own = nncf.quantize(openvino.Core().read_model(graph), nncf.Dataset(one))
    openvino.save_model(own, folder / "nncf.xml", compress_to_fp16=False)


def load(file: str) -> Any:
    """OpenVINO's model, compiled for one thread."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(file, "CPU", options)


if __name__ == "__main__":
    main()
