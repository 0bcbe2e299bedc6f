"""What a runtime that can profile offers beside `load`: the same runs, with the time of each operator."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from headway.core.tensors import Array, TensorSpec
from headway.runtimes.onnx_graph import Graph
from headway.runtimes.runtime import Runtime


@dataclass(frozen=True)
class Operator:
    """One operator that the runtime executes: a node of the graph it made of the file.

    Attributes:
        name: unique in the graph.
        kind: such as `QLinearConv`; other domains' without the domain.
        blocked: whether it works on channels in blocks (ONNX Runtime's NCHWc layout).
        inputs: tensors' names; "" where an optional one is absent.
        outputs: tensors' names.
        weights: dimensions of those inputs that are constants, by name.
        microseconds: of each run, in order.
        given: dimensions of each of `inputs` in the last run; None where it is absent.
        made: dimensions of its outputs in the last run.
        datatype: of its first input, by its Open Inference Protocol name; "" without inputs.
        weight_bytes: of its constants.
        read_bytes: of its other inputs.
        written_bytes: of its outputs.
    """

    name: str
    kind: str
    blocked: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: dict[str, tuple[int, ...]]
    microseconds: tuple[float, ...]
    given: tuple[tuple[int, ...] | None, ...] = ()
    made: tuple[tuple[int, ...], ...] = ()
    datatype: str = ""
    weight_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class ProfilingSession(Protocol):
    """A loaded model whose runs are recorded. The recording itself takes time: a few microseconds an operator."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, as `Session.run`."""

    def finish(self) -> tuple[Operator, ...]:
        """What each operator took, in the order of execution; the session is closed."""

    def close(self) -> None:
        """Free the session and what it recorded; `finish` may have done so already."""


@runtime_checkable
class Profiles(Runtime, Protocol):
    """A runtime that can profile."""

    def profile(self, path: Path, *, device: str = "cpu", threads: int = 1) -> ProfilingSession:
        """Load a model file for recorded runs, with the options of `load`."""

    def graph(self, path: Path) -> Graph:
        """The model as its file has it, whose names the runtime's own graph derives from."""
