"""How a model is trained: the recipe's `train`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from headway.core.config import Config


class HealthConfig(Config):
    """What is watched while a model trains: gradients, units that are dead, and how it was initialised."""

    policy: Literal["warn", "skip", "stop", "off"] = Field(
        "warn",
        description="`warn` says each finding once; `skip` also leaves out steps whose gradient explodes or is not "
        "finite; `stop` ends the run at the first finding, before the step it concerns.",
    )
    every: int = Field(20, ge=1, le=2**31, description="Steps between two looks at every tensor.")


class Parallel(Config):
    """How the processes of `headway train --nproc` share the work; the four numbers multiply to their count."""

    data: Literal["auto"] | int = Field(
        "auto", description="Copies of the model, each with its rows of a batch; `auto` takes what is left."
    )
    shard: int = Field(1, ge=1, description="Processes over which one copy's weights and optimizer are spread (FSDP2).")
    tensor: int = Field(
        1, ge=1, description="Processes that share each linear layer of attention and feed-forward networks."
    )
    pipeline: int = Field(1, ge=1, description="Processes that each hold some of the layers; there is only 1 so far.")
    plan: dict[str, Literal["colwise", "rowwise"]] | None = Field(
        None,
        description="Linear layers that `tensor` shares, in place of those that are found: patterns of names "
        '(`"encoder.layer.*.intermediate.dense": colwise`), split by outputs or, after such a one, by inputs.',
    )


class LoaderConfig(Config):
    """How batches are prepared: by the training process between its steps, or ahead of them by processes beside it.

    What a batch holds does not depend on it, random numbers included.
    """

    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = Field(
        "auto",
        description="Processes beside each training process; `auto` takes the cores that training leaves, 1 to 8, "
        "where the training part says that its batches are costly, and else none.",
    )
    ahead: int = Field(2, ge=1, le=1024, description="Batches that each worker has ready.")
    start: Literal["forkserver", "spawn", "fork"] = Field(
        "forkserver",
        description="How workers begin. `fork` shares what is in memory and takes functions within functions, but may "
        "hang where other threads hold a lock.",
    )
    pin: bool = Field(True, description="Page-lock batches that go to an accelerator, so that copies need no waiting.")


class TrainConfig(Config):
    """Training with AdamW or SGD under a warm-up and cosine schedule."""

    epochs: float = Field(8, gt=0, le=1_000_000, description="Passes over the training part; a fraction is allowed.")
    batch_size: int = Field(128, ge=1, le=2**20, description="Rows a step, over all processes, before accumulation.")
    accumulate: int = Field(1, ge=1, le=2**20, description="Batches whose gradients are added up before a step.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="`auto` takes bf16 where the device computes it natively, else fp32. fp16 scales the loss."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of weights, shuffling and augmentation.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="`sgd` has Nesterov momentum 0.9.")
    lr: float = Field(3e-3, gt=0, le=1e6, description="Highest learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Of weights with two or more dimensions.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="After the warm-up.")
    clip: float | None = Field(1.0, gt=0, description="Largest gradient norm; null leaves gradients as they are.")
    parallel: Parallel = Field(Parallel(), description="How several processes share the work.")
    compress: Literal["none", "fp16", "bf16", "powersgd"] = Field(
        "none", description="How gradients are sent between copies of the model; all but `none` lose some of them."
    )
    checkpoint_activations: Literal["none", "full", "selective"] = Field(
        "none",
        description="What the backward pass computes anew, to save memory: every activation inside the model's "
        "repeated blocks, or all but what products and convolutions return.",
    )
    checkpoint_seconds: float = Field(
        30, gt=0, description="Seconds between checkpoints; one is also written at each epoch's end and on Ctrl-C."
    )
    keep_checkpoints: int = Field(2, ge=1, le=10_000, description="Of several processes; one process alone keeps one.")
    device: str = Field("auto", description="`auto`, `cpu`, or an accelerator as torch names it.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads for training; null uses every core it may. On a machine that others use, several "
        "threads wait for each other and are often slower than one.",
    )
    loader: LoaderConfig = Field(LoaderConfig(), description="How batches are prepared.")
    health: HealthConfig = Field(HealthConfig(), description="What is watched, and what a finding leads to.")
    log: tuple[Literal["tensorboard"], ...] = Field(
        (), description="Who else is told of every step; event files lie in the run's folder."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.parallel.tensor > 1 and self.precision == "fp16":
            raise ValueError(
                "`precision: fp16` scales the loss, which shared layers (`tensor`) cannot: take bf16 or fp32"
            )
        if self.compress != "none" and (self.parallel.tensor, self.parallel.shard) != (1, 1):
            raise ValueError(
                "`compress` is of gradients between whole copies: leave it out, or set tensor and shard to 1"
            )
        return self

    def decisive(self) -> dict[str, Any]:
        """As plain JSON, without what changes no outcome."""
        return self.model_dump(mode="json", exclude={"log": True, "loader": True, "health": {"every"}})
