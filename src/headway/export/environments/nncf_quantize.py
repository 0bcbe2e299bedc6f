"""8 bits for OpenVINO by NNCF, run by the Python of the environment `nncf`; stands alone.

nncf_quantize.py MODEL.xml ROWS OUT.xml SETTINGS

ROWS is a folder of `.npz` files, one for each calibration row, with an array for each input. SETTINGS is JSON:
`overflow_fix` as NNCF spells it, `ignored` names of nodes that stay in 32 bits.
"""

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would tell its maker of every import


class Rows:
    """Calibration rows from their files; says how far the first pass is."""

    def __init__(self, folder: Path, told: Any) -> None:
        self.files, self.told, self.most = sorted(folder.glob("*.npz")), told, 0

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import numpy as np

        for number, file in enumerate(self.files):
            with np.load(file, allow_pickle=False) as arrays:
                yield dict(arrays)
            if number >= self.most:
                self.most = number + 1
                tell(self.told, {"done": self.most, "of": len(self.files)})


def quantize(model: Path, rows: Path, out: Path, settings: dict[str, Any], told: Any) -> dict[str, Any]:
    """Write the 8-bit form and tell how it was made."""
    import nncf
    import openvino

    graph = openvino.Core().read_model(str(model))
    given = Rows(rows, told)
    ignored = [rf"^{re.escape(name)}(/WithoutBiases)?$" for name in settings["ignored"]]
    kind = nncf.ModelType.TRANSFORMER if attends(graph) else None
    made = nncf.quantize(
        graph,
        nncf.Dataset(given),
        subset_size=len(given),
        model_type=kind,
        ignored_scope=nncf.IgnoredScope(patterns=ignored, validate=False) if ignored else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix(settings["overflow_fix"])
        ),
    )
    openvino.save_model(made, str(out), compress_to_fp16=False)
    eight = [op for op in made.get_ops() if op.get_type_name() == "FakeQuantize"]
    return {
        "tool": "nncf",
        "versions": {name: version(name) for name in ("nncf", "openvino", "numpy")},
        "rows": len(given),
        "model_type": kind.value if kind else None,
        "quantizers": len(eight),
        **settings,
    }


def attends(graph: Any) -> bool:
    """Whether there is attention in it: a softmax that a product takes."""
    return any(
        op.get_type_name() == "ScaledDotProductAttention"
        or (
            op.get_type_name() == "Softmax"
            and any(to.get_node().get_type_name() == "MatMul" for to in op.output(0).get_target_inputs())
        )
        for op in graph.get_ops()
    )


def tell(stream: Any, document: dict[str, Any]) -> None:
    """Print one document on a line of its own."""
    print(json.dumps(document), file=stream, flush=True)


if __name__ == "__main__":
    stream, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no document
    source, folder, target, asked = sys.argv[1:]
    tell(stream, quantize(Path(source), Path(folder), Path(target), json.loads(asked), stream))
