"""`manifest.json`: what a bundle says of itself. Every type here is part of a file format: change it with care."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from headway.bundles.padding import check_padding
from headway.core.machine import Machine
from headway.core.tensors import TensorSpec
from headway.processing.declaration import Processing

SCHEMA_VERSION: Literal[1] = 1


def _no_parent(value: str) -> str:
    if value in {".", ".."}:
        raise ValueError("a name may not be '.' or '..'")
    return value


# A model's name stands in URLs, file names and metric labels.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$"), AfterValidator(_no_parent)]
Version = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
Outcome = Literal["pass", "fail", "insufficient"]


class Record(BaseModel):
    """Base of the manifest's types: immutable, and strict about what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(Record):
    """Milliseconds of one run at batch 1.

    `p99_low` and `p99_high` bracket the true 99th percentile at the contract's confidence (order statistics).
    """

    p50: float
    p90: float
    p99: float
    p99_low: float
    p99_high: float | None
    runs: int


class Accuracy(Record):
    """The metric on test data, with intervals at `confidence`.

    Attributes:
        value: the mean of the rows' scores.
        interval: of `value`.
        kept: value divided by the original's value.
        kept_interval: of `kept`, from the pairs of scores; each end holds one-sided at `confidence`.
        lost: rows the original has right and this variant wrong; None where scores are not 0 or 1.
        gained: the other way round.
    """

    metric: str
    value: float
    interval: tuple[float, float]
    kept: float
    kept_interval: tuple[float, float]
    confidence: float
    rows: int
    lost: int | None = None
    gained: int | None = None


class Scorecard(Record):
    """What was measured of a variant, and where.

    Attributes:
        accuracy: against the original.
        latency_ms: at batch 1.
        speedup: low, median and high of the ratio to the reference, interleaved with it in one run.
        throughput: rows/s at `throughput_batch` rows a run.
        size_mb: of the variant's files, 10^6 bytes.
        size_ratio: to the original's files.
        peak_memory_mb: resident, of a process that loads the variant and runs it, beyond what the bare runtime takes.
        threads: CPU threads a run.
        reference: what `speedup` compares with.
        source: how the figures came about.
    """

    accuracy: Accuracy
    latency_ms: Latency
    speedup: tuple[float, float, float]
    throughput: float
    throughput_batch: int
    size_mb: float
    size_ratio: float
    peak_memory_mb: float
    threads: int
    reference: str
    machine: Machine
    source: Literal["measured", "vendor", "modelled"] = "measured"


class Gate(Record):
    """What the gate decided, and each reason."""

    outcome: Outcome
    reasons: tuple[str, ...]


class Variant(Record):
    """One runnable form of the model.

    Attributes:
        id: unique in the bundle; the folder under `variants/`.
        file: the model file that the runtime is given, relative to the bundle; others of the model lie beside it.
        runtime: the name of the runtime it was measured with.
        steps: names of the steps that made it, in order.
        tolerance: largest absolute difference from the golden outputs that a sound replay may show, by output.
        own_tolerance: the same from what the variant itself answered when it was sealed; empty where that is not known.
        scorecard: None for a model that was packed as it stands.
    """

    id: Name
    file: str
    format: str
    runtime: str
    precision: str
    steps: tuple[str, ...] = ()
    tolerance: dict[str, float]
    own_tolerance: dict[str, float] = {}
    scorecard: Scorecard | None = None
    gate: Gate | None = None


class StepRecord(Record):
    """One step that was taken: what it was asked, what replays it, and what it did.

    Attributes:
        accuracy: the metric on selection data, before and after; None where it was not measured.
        seconds: that the step took, interrupted runs included.
        checkpoint: the step's result, from which a later run goes on: a folder of `HEADWAY_HOME/cache/ship`, where it
            was made.
    """

    step: str
    config: dict[str, Any]
    record: dict[str, Any]
    accuracy: tuple[float, float] | None = None
    seconds: float | None = None
    checkpoint: str = ""


class Lineage(Record):
    """Where a bundle comes from. What is not known (of a packed file) is empty.

    Attributes:
        search: how many candidates `steps: auto` looked at, on which part, in what time; empty without it.
    """

    task: str = ""
    task_arguments: dict[str, Any] = {}
    data_sha256: str = ""
    source_sha256: str = ""
    training: dict[str, Any] = {}
    steps: dict[str, tuple[StepRecord, ...]] = {}
    search: dict[str, Any] = {}
    git_commit: str = ""
    packages: dict[str, str] = {}
    machine: Machine | None = None


class Contract(Record):
    """What the bundle's owner asked for, and every shipped variant kept."""

    keep_accuracy: float | None = None
    p99_ms: float | None = None
    max_size_mb: float | None = None
    confidence: float = 0.95
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1


class FileRecord(Record):
    """Checksum and size in bytes of a file in the bundle."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class Manifest(Record):
    """The whole of `manifest.json`.

    Attributes:
        inputs: of the model.
        outputs: of the model.
        processing: what is done between a client and the model, and what clients then send and get; None for nothing.
        chosen: id of the variant that serves unless the server finds a better one on its machine.
        golden: files of golden samples, relative to the bundle.
        files: every other file in the bundle, but for the manifest and the signature.
        signer: PEM of the public key that the signature is checked with.
        padding: what fills up a shorter row, by input. These inputs, and they alone, may be padded, in every dimension
            after the first that varies, and no answer changes by it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Name
    version: Version
    created: datetime
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    processing: Processing | None = None
    variants: tuple[Variant, ...] = Field(min_length=1)
    chosen: Name
    golden: tuple[str, ...] = Field(min_length=1)
    contract: Contract
    lineage: Lineage
    files: dict[str, FileRecord]
    signer: str
    padding: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}

    @model_validator(mode="after")
    def _can_be_padded(self) -> "Manifest":
        check_padding(self.inputs, self.outputs, self.padding)
        return self

    def variant(self, variant_id: str | None = None) -> Variant:
        """The variant called `variant_id`, or the chosen one. Raises `KeyError` where there is none."""
        wanted = variant_id or self.chosen
        for variant in self.variants:
            if variant.id == wanted:
                return variant
        raise KeyError(wanted)
