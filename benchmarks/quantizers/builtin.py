"""Quantizers of the installed packages, each with its defaults."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from headway.core.files import write_atomic
from headway.core.tensors import Array
from headway.export.quiet import quiet


def onnxruntime_static(graph: Path, rows: Array, out: Path) -> None:
    """ONNX Runtime's own static quantization: prepared as its documentation asks, and every default."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        left = iter(rows)

        def get_next(self) -> dict[str, Array] | None:
            row = next(self.left, None)
            return None if row is None else {"image": row[None]}

    with quiet(), tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        quant_pre_process(graph, prepared)
        quantize_static(prepared, made, Reader())
        write_atomic(out, made.read_bytes())


def onnxruntime_dynamic(graph: Path, out: Path) -> None:
    """ONNX Runtime's own dynamic quantization, with every default."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(graph)
    model.graph.ClearField("value_info")  # it transposes weights, and trips over the shapes that they had
    with quiet():
        quantize_dynamic(model, out)


def torch_dynamic(model: nn.Module) -> nn.Module:
    """PyTorch's dynamic quantization, of linear layers; of convolutions it has none."""
    with quiet():
        made: nn.Module = torch.ao.quantization.quantize_dynamic(model)
    return made
