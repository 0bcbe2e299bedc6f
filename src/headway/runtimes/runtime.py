"""The seam between Headway and an inference engine.

A runtime is a class offered under the entry point group `headway.runtimes`; it is made without arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headway.core.tensors import Array, TensorSpec

DEFAULT = "onnxruntime"  # runs ONNX files where nobody names a runtime


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can work here, and what to do if not."""

    ready: bool
    detail: str


class Session(Protocol):
    """A loaded model.

    Attributes:
        inputs: what `run` expects.
        outputs: what `run` returns.
        thread_safe: whether several threads may call `run` at once.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def thread_safe(self) -> bool: ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, each with as many rows as the inputs. Inputs are trusted to fit `inputs`."""

    def close(self) -> None:
        """Free what the session holds; it is not used afterwards."""


class Runtime(Protocol):
    """Loads one or more formats.

    Attributes:
        name: as the manifest and reports spell it.
        formats: what it reads, such as `frozenset({"onnx"})`.
        devices: what it can be asked for, installed or not.
        runs_qdq: whether the 8-bit form that the quantize step writes (ONNX QDQ) is worth trying in it.
    """

    name: str
    formats: frozenset[str]
    devices: tuple[str, ...]
    runs_qdq: bool

    def available(self, device: str = "cpu") -> Availability:
        """Whether it can load a model on `device` here."""

    def load(self, path: Path, *, device: str = "cpu", threads: int = 1) -> Session:
        """Load a model file.

        Args:
            path: the model.
            device: "cpu", or an accelerator's kind.
            threads: CPU threads that one run may use.

        Raises:
            FormatError: the file is not a model this runtime reads.
        """
