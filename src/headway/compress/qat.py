"""Quantization-aware training: fine-tuning a module that already computes as its 8-bit graph will.

The module comes out as it went in, with other weights: the record replays to the untouched architecture. `quantize`,
which must follow, calibrates and writes the graph as it always does. Accuracy is measured there, in the runtime that
serves; the record keeps what the simulation said, so that the two can be compared.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from headway.compress.quantize import QuantizeConfig
from headway.compress.searchable import Between
from headway.compress.step import JsonRecord, Order, StepContext
from headway.core.config import Config
from headway.core.tensors import Array

if TYPE_CHECKING:
    import torch

_BATCH = 64  # rows a run of calibration


class QatConfig(Config):
    """Quantization-aware training, before a static `quantize`, whose settings it takes."""

    epochs: Annotated[float, Between(0.5, 4, effort=True)] = Field(
        2, gt=0, description="Passes over the training part; a fraction is allowed."
    )
    lr: Annotated[float, Between(0.05, 0.5, log=True)] = Field(
        0.3, gt=0, description="Highest learning rate, as a factor of `train.lr`."
    )


class Qat:
    """Fine-tunes a module under fake quantization.

    Args:
        config: the settings.
    """

    stage: ClassVar[Literal["module"]] = "module"
    Config: ClassVar[type[Config]] = QatConfig

    def __init__(self, config: QatConfig | None = None) -> None:
        self.config = config or QatConfig()

    @staticmethod
    def order(config: QatConfig) -> Order:
        """Before `quantize`."""
        return Order(before={"quantize": "it makes a model ready for 8 bits"})

    @staticmethod
    def refuses(following: object) -> str:
        """Why `following`, the configuration of the step that must follow, does not fit; "" where it does."""
        if isinstance(following, QuantizeConfig):
            if following.mode != "static":
                return f"mode: {following.mode} takes no ranges that could be trained for; it needs mode: static"
            if not following.per_channel:
                return "it trains weights with a scale for each output channel; it needs per_channel: true"
        return ""

    def apply(self, model: "torch.nn.Module", context: StepContext) -> "tuple[torch.nn.Module, JsonRecord]":
        """Fine-tune `model` in place; an interrupted run goes on from its checkpoint in `context.folder`.

        Returns:
            The model, and what the simulation scored on selection data: as trained before, untrained and trained in 8
            bits.

        Raises:
            TaskError: no layer can be quantized, or the model calls other functions in training than in evaluation.
            DataError: the training or the calibration part is empty or not finite.
        """
        import torch

        from headway.compress.simulate import Simulated, find_points
        from headway.core.modules import forward
        from headway.train.loop import fit
        from headway.train.predict import score

        following = context.following if isinstance(context.following, QuantizeConfig) else QuantizeConfig()
        task, selection = context.task, context.task.parts.selection
        inputs = {name: torch.from_numpy(value) for name, value in next(iter(_batches(context, following, 2))).items()}
        model.eval()
        points = find_points(lambda: forward(model, inputs, task.output_names), following.layers_kept)
        weight_range = following.choice(context.machine.int8).weight_range
        simulated = Simulated(model, points, {}, weight_range)

        def calibrate() -> float:
            simulated.calibrate(
                lambda: _batches(context, following, _BATCH),
                task.output_names,
                following.calibration,
                following.percentile,
            )
            return score(simulated, task, selection)

        scores = {"fp32": score(model, task, selection), "before": calibrate()}
        settings = context.train.model_copy(
            update={
                "epochs": self.config.epochs,
                "lr": context.train.lr * self.config.lr,
                "precision": "fp32",  # rounding to 8 bits needs more than the 8 bits of bf16 around it
                "seed": context.train.seed + 1,
            }
        )
        loss = fit(simulated, task, settings, folder=context.folder, progress=context.progress, title="qat").loss
        scores["after"] = calibrate()
        context.progress.say(
            f"qat: simulated on selection data {scores['before']:.4f} before and {scores['after']:.4f} after, "
            f"{scores['fp32']:.4f} in 32 bits; {len(points.layers)} layers, {weight_range} weight range"
        )
        return model, {"simulated": scores, "loss": loss, "weight_range": weight_range, "layers": len(points.layers)}

    def replay(self, model: "torch.nn.Module", record: Mapping[str, Any]) -> "torch.nn.Module":
        """The module as it is: only its weights are others."""
        return model


def _batches(context: StepContext, following: QuantizeConfig, size: int) -> Iterator[dict[str, Array]]:
    """The calibration rows that `quantize` will take."""
    part = context.task.parts.calibration
    rows = following.calibration_rows(len(part))
    size = 1 if context.task.varying else size  # padding has no place in a range
    for chosen in np.split(rows, range(size, len(rows), size)):
        yield part.batch(chosen)[0]
