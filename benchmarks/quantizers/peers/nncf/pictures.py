"""NNCF and OpenVINO on rows of one size, run by a Python of their own and spoken to over pipes; stands alone.

quantize GRAPH CALIBRATION FOLDER    GRAPH with NNCF's defaults, as nncf.onnx and as OpenVINO's nncf.xml
load FILE                            a session of one thread
answer INPUTS OUTPUTS                runs every 64 rows of a .npy file
again                                runs the first row of what was answered last
"""

from pathlib import Path
from typing import Any

import numpy as np
from pipe import answer, compiled


class Pictures:
    """What was loaded last, and the row to run again."""

    session: Any
    row: Any

    def quantize(self, graph: str, calibration: str, folder: str) -> None:
        """Write both forms of a graph."""
        import nncf
        import onnx
        import openvino

        model, rows = onnx.load(graph), np.load(calibration)
        name = model.graph.input[0].name
        one = [rows[i : i + 1] for i in range(len(rows))]
        onnx.save(nncf.quantize(model, nncf.Dataset(one, lambda row: {name: row})), Path(folder, "nncf.onnx"))
        own = nncf.quantize(openvino.Core().read_model(graph), nncf.Dataset(one))
        openvino.save_model(own, Path(folder, "nncf.xml"), compress_to_fp16=False)

    def load(self, file: str) -> None:
        """Of one thread."""
        self.session = compiled(file)

    def answer(self, inputs: str, outputs: str) -> None:
        """Run every 64 rows."""
        rows = np.load(inputs)
        self.row = rows[:1]
        batches = np.split(rows, range(64, len(rows), 64))
        np.save(outputs, np.concatenate([self.session([batch])[0] for batch in batches]))

    def again(self) -> None:
        """Run the first row once more."""
        self.session([self.row])


if __name__ == "__main__":
    peer = Pictures()
    answer({"quantize": peer.quantize, "load": peer.load, "answer": peer.answer, "again": peer.again})
