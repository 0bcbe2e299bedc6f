"""What training came to."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        epochs: passes done when it ended.
        loss: mean over its rows, in training mode.
        lr: of its last step.
        seconds: of training, without interruptions.
    """

    epochs: float
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class Communication:
    """What a step's gradients cost on the wire, on average, as this process saw it.

    Attributes:
        bytes: sent by each process of a ring.
        seconds: from a bucket's start to its end, summed up; the backward pass goes on meanwhile.
        bandwidth: bytes/s.
        efficiency: share of the bandwidth that one all-reduce of 8 MiB reached when the run began.
    """

    bytes: float
    seconds: float
    bandwidth: float
    efficiency: float


@dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes:
        epochs: passes over the training part.
        steps: optimizer steps.
        loss: mean over the rows of the last epoch.
        seconds: of training, over all resumed pieces.
        precision: "fp32", "bf16" or "fp16".
        device: where it ran.
        reason: why that precision and device.
        resumed: the step it went on from; 0 where it began afresh.
        history: one entry an epoch.
        findings: what was odd, each as `headway.train.monitor.Finding` has it.
        norms: (step, norm of the gradient before clipping), at most 400.
        skipped: steps that were left out.
        processes: that trained together, in the last piece.
        communication: between copies of the model, in the last piece.
        waited: seconds of `seconds` in which the first process waited for its next batch.
        workers: that prepared batches beside each process, in the last piece.
    """

    epochs: float
    steps: int
    loss: float
    seconds: float
    precision: str
    device: str
    reason: str
    resumed: int
    history: tuple[Epoch, ...]
    findings: tuple[dict[str, Any], ...] = ()
    norms: tuple[tuple[int, float], ...] = ()
    skipped: int = 0
    processes: int = 1
    communication: Communication | None = None
    waited: float = 0.0
    workers: int = 0

    def document(self) -> dict[str, Any]:
        """As JSON has it, for a bundle's lineage."""
        return asdict(self)
