"""The seam between a torch module and a file format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from headway.core.tensors import Array

if TYPE_CHECKING:
    import torch

NOTHING: Mapping[str, Mapping[int, str]] = MappingProxyType({})


class Export(Protocol):
    """Writes one format; a class offered under the entry point group `headway.exports`, made without arguments.

    Attributes:
        format: as manifests and runtimes spell it.
        suffix: of the file it writes.
    """

    format: str
    suffix: str

    def write(
        self,
        model: "torch.nn.Module",
        example: Mapping[str, Array],
        output_names: Sequence[str],
        out: Path,
        varying: Mapping[str, Mapping[int, str]] = NOTHING,
    ) -> None:
        """Write `model` to `out`, with a first dimension that varies.

        Args:
            model: in evaluation mode.
            example: inputs by name, each [2, ...]: what the module is traced with.
            output_names: what the outputs are to be called.
            out: the file; it appears whole or not at all.
            varying: further dimensions that vary, by input, with their names, as in `Task.varying`.

        Raises:
            TaskError: the module cannot be exported; the message names the operation.
        """


@runtime_checkable
class Converts(Protocol):
    """An export that also takes an ONNX file, so that a model of any origin can have its format."""

    format: str
    suffix: str

    def convert(self, file: Path, out: Path, *, batch: int | None = None) -> tuple[Path, ...]:
        """Write the model of an ONNX file to `out`.

        Args:
            file: the ONNX file.
            out: what a runtime is given; other files of the format go beside it. They appear whole or not at all.
            batch: rows that every run will have; None where they vary.

        Returns:
            Every file that was written, `out` first.

        Raises:
            FormatError: not an ONNX file with its weights in it, or of operators that the format lacks.
            UsageError: the model's batch does not vary, so that it cannot be set.
            MissingDependencyError: a package that the format needs is not installed.
        """
