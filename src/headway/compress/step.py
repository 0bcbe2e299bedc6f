"""The step protocol: one replayable change to a model.

A module step changes a torch module; a graph step changes an ONNX file, and so also works on a model that never was a
torch module. Both leave a record: plain JSON that replays the change. A pruned network is rebuilt from its factory and
its records, and then takes its weights from a safetensors file; nothing is ever unpickled.

A step says in a static method `order(config)` what may come before and after it, and, where one must follow, in
`refuses(following)` which of its configurations do not fit; both are looked at before any work.

A step that runs a function of the user's names its configuration's key in `code`, and is made with a second argument:
the folder that paths start from. The function's source then counts among what the step's result depends on.

A step is a class offered under the entry point group `headway.steps`, made from its own `Config`. Its module imports no
torch at the top, so that a recipe can be checked at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from headway.core.config import Config
from headway.core.machine import Machine
from headway.core.progress import Progress
from headway.tasks import Task
from headway.train.config import TrainConfig

if TYPE_CHECKING:
    import torch

JsonRecord = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What a step asks of the others in its recipe: steps by name, each with the reason.

    Attributes:
        after: steps that must come before it.
        before: steps that must come after it.
        not_after: steps that may not come before it.
    """

    after: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    not_after: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepContext:
    """What a step may use.

    Attributes:
        task: data and metric. A step trains on `train`, takes ranges from `calibration`, chooses between candidates
            on `selection`, and never reads `test`.
        train: how the model was trained, from which fine-tuning takes its settings.
        machine: where the model will run.
        folder: private to this step; survives an interruption, so that long work can resume.
        threads: CPU threads that a run may use.
        following: the configuration of the step that this one says must come after it.
        original: makes the model as it was before any step, a fresh one at each call; None where it is the model given.
    """

    task: Task
    train: TrainConfig
    machine: Machine
    folder: Path
    progress: Progress
    threads: int = 1
    following: Config | None = None
    original: "Callable[[], torch.nn.Module] | None" = None


class ModuleStep(Protocol):
    """Changes a torch module."""

    stage: ClassVar[Literal["module"]]
    Config: ClassVar[type[Config]]

    def apply(self, model: "torch.nn.Module", context: StepContext) -> "tuple[torch.nn.Module, JsonRecord]":
        """The changed module, which may be the one given, and the record of the change."""

    def replay(self, model: "torch.nn.Module", record: Mapping[str, Any]) -> "torch.nn.Module":
        """The architecture that `apply` left, from an untouched one; weights are loaded by the caller."""


class GraphStep(Protocol):
    """Changes an ONNX file."""

    stage: ClassVar[Literal["graph"]]
    Config: ClassVar[type[Config]]
    precision: ClassVar[str]

    def apply(self, graph: Path, out: Path, context: StepContext) -> JsonRecord:
        """Write the changed graph to `out` and return the record of the change."""

    def replay(self, graph: Path, out: Path, record: Mapping[str, Any]) -> None:
        """Write the same file again from the record alone, without data."""
