"""Structured pruning: whole channels go, so that what is left is a smaller network of ordinary layers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from headway.compress.searchable import Between, OneOf
from headway.compress.step import JsonRecord, Order, StepContext
from headway.compress.teaching import TeachingConfig
from headway.core.config import Config

if TYPE_CHECKING:
    import torch


class PruneConfig(Config):
    """Structured pruning, in rounds with fine-tuning between."""

    keep: Annotated[float, Between(0.25, 0.9)] = Field(
        0.6, gt=0, lt=1, description="Share of the model's PARAMETERS that is left, not of channels."
    )
    budget: Literal["parameters", "latency"] = Field(
        "parameters",
        description="What `keep` and `every` are shares of, and what importance is weighed against. `latency`: the "
        "time of one row in ONNX Runtime on this machine; each round exports the model once for each group of layers.",
    )
    importance: Annotated[Literal["l1", "variance", "taylor"], OneOf()] = Field(
        "taylor",
        description="What a channel matters: its weights' magnitude, how much its activation varies over calibration "
        "data, or how much the loss would change without it.",
    )
    scope: Annotated[Literal["global", "layer"], OneOf()] = Field(
        "global",
        description="`global`: channels of all layers compare, by importance for each parameter freed. `layer`: every "
        "layer loses about the same share of its channels.",
    )
    align: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Widths become multiples of this; `auto` measures which multiples ONNX Runtime's kernels like on "
        "this machine; 1 takes any width. Attention heads go whole, whatever this is.",
    )
    every: Annotated[float, OneOf(0.05, 0.1, 0.2, 0.4)] = Field(
        0.05, gt=0, le=1, description="Share of the parameters that goes in each round; fine-tuning follows each."
    )
    finetune_epochs: Annotated[float, Between(0.5, 3, effort=True)] = Field(
        1, ge=0, description="Passes over the training part after each round; a fraction is allowed, 0 leaves it out."
    )
    finetune_lr: float = Field(
        0.3,
        gt=0,
        description="Highest learning rate of fine-tuning, as a factor of `train.lr`; each round rewinds to it.",
    )
    least: float = Field(0.1, gt=0, le=1, description="Share of a layer's channels that always stays.")
    distill: Annotated[TeachingConfig | None, OneOf(None, {})] = Field(
        None, description="Fine-tuning learns from the original too; null: it does not."
    )


class Prune:
    """Removes the channels that matter least until a share of the parameters is left.

    Args:
        config: the settings.
    """

    stage: ClassVar[Literal["module"]] = "module"
    Config: ClassVar[type[Config]] = PruneConfig

    def __init__(self, config: PruneConfig | None = None) -> None:
        self.config = config or PruneConfig()

    @staticmethod
    def order(config: PruneConfig) -> Order:
        """Not after training for 8 bits."""
        return Order(not_after={"qat": "its fine-tuning is in 32 bits, and would undo what qat trained for 8"})

    def apply(self, model: "torch.nn.Module", context: StepContext) -> "tuple[torch.nn.Module, JsonRecord]":
        """Prune and fine-tune `model` in place. A finished round is kept in `context.folder`, and resumed from.

        Returns:
            The model, and for each layer that was cut the channels it kept.

        Raises:
            TaskError: nothing can be pruned, or `keep` cannot be reached.
            DataError: the training part is empty or not finite.
            StorageError: a round could not be saved.
        """
        from headway.compress.rounds import prune

        return prune(model, self.config, context)

    def replay(self, model: "torch.nn.Module", record: Mapping[str, Any]) -> "torch.nn.Module":
        """Cut an untouched model to the same widths.

        Raises:
            WeightsError: it is not the model that the record was made of.
        """
        from headway.compress.slices import replay

        return replay(model, record["layers"], record["counts"])
