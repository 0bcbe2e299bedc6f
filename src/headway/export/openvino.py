"""OpenVINO IR: a graph as `.xml` and its weights, in 32 bits, as `.bin` beside it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headway.core.errors import FormatError, UsageError
from headway.core.files import make_folder
from headway.core.plugins import missing
from headway.core.tensors import Array
from headway.export.onnx import OnnxExport
from headway.runtimes.formats import model_files
from headway.runtimes.openvino import OpenVinoRuntime, read_model, save_ir

if TYPE_CHECKING:
    import torch


class OpenVinoExport:
    """Writes OpenVINO IR, by way of ONNX: what OpenVINO runs is then the graph that everything else runs."""

    format = "openvino"
    suffix = ".xml"

    def write(
        self, model: "torch.nn.Module", example: Mapping[str, Array], output_names: Sequence[str], out: Path
    ) -> None:
        """Write `model`; see `Export.write` and, of what can go wrong, `OnnxExport.write` and `convert`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            OnnxExport().write(model, example, output_names, file)
            self.convert(file, out)

    def convert(self, file: Path, out: Path, *, batch: int | None = None) -> tuple[Path, ...]:
        """Write the model of an ONNX file; see `Converts`."""
        if not OpenVinoRuntime().available().ready:
            raise missing("openvino", needed_by=str(file), extra="openvino")
        if out.suffix != self.suffix:
            raise UsageError(f"OpenVINO IR is a {self.suffix} file with a .bin beside it", where=str(out))
        try:
            model = read_model(file)
            if batch is not None:
                varying = [spec for spec in model.inputs if spec.batched]
                if not varying:
                    raise UsageError("the batch does not vary", where=str(file), remedy="Leave --batch out.")
                model.graph.reshape({spec.name: [batch, *spec.shape[1:]] for spec in varying})
            make_folder(out.parent)
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
                save_ir(model, Path(folder, out.name))
                for made in reversed(model_files(Path(folder, out.name))):  # the graph last: it points to the weights
                    made.replace(out.with_name(made.name))
        except RuntimeError as error:
            raise FormatError(f"OpenVINO cannot convert it: {error}", where=str(file)) from error
        return model_files(out)
