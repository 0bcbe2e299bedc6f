"""Distillation: a smaller student, or the model as it was pruned, learns from the original."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from headway.compress.prune import Prune, PruneConfig
from headway.compress.searchable import Between, OneOf
from headway.compress.step import JsonRecord, Order, StepContext
from headway.compress.teaching import TeachingConfig
from headway.core.config import Config

if TYPE_CHECKING:
    import torch


class DistillConfig(TeachingConfig):
    """Training under the original as a teacher: of a student of your own, of what is left of the original, or of what
    `prune` before it left.
    """

    student: str | None = Field(
        None,
        description="Function without arguments that makes the student, named as in `task.use`; trained from scratch.",
    )
    keep_layers: dict[str, tuple[int, ...]] = Field(
        {},
        description="`{stack: [0, 2, 4]}`: only these layers of an nn.Sequential or nn.ModuleList, with their weights.",
    )
    narrow: Annotated[float | None, OneOf(None, 0.3, 0.45, 0.6)] = Field(
        None, gt=0, lt=1, description="Share of the parameters left by taking the smallest channels (L1) at once."
    )
    epochs: Annotated[float, Between(2.0, 8.0, effort=True)] = Field(
        8, gt=0, description="Passes over the training part; a fraction is allowed."
    )
    lr: float | None = Field(
        None,
        gt=0,
        description="Highest learning rate, as a factor of `train.lr`; by default 1 for `student`, else 0.3.",
    )

    @model_validator(mode="after")
    def _student(self) -> Self:
        if self.student and (self.keep_layers or self.narrow):
            raise ValueError("`student` names a model of its own, from which `keep_layers` and `narrow` take nothing")
        for stack, kept in self.keep_layers.items():
            if not kept or min(kept) < 0 or list(kept) != sorted(set(kept)):
                raise ValueError(f"`keep_layers` of {stack!r} must be whole numbers from 0, each greater than the last")
        return self


class Distill:
    """Trains a student under the original.

    Args:
        config: the settings.
        base: the folder that the path of `student` starts from.
    """

    stage: ClassVar[Literal["module"]] = "module"
    Config: ClassVar[type[Config]] = DistillConfig
    code: ClassVar[str] = "student"

    def __init__(self, config: DistillConfig | None = None, base: Path = Path()) -> None:
        self.config = config or DistillConfig()
        self.base = base

    @staticmethod
    def order(config: DistillConfig) -> Order:
        """A student of its own would throw pruning away; without any, only what was pruned has something to learn."""
        not_after = {"qat": "distillation trains in 32 bits, and would undo what qat trained for 8"}
        if config.student:
            return Order(not_after={**not_after, "prune": "its student is another model, so what was pruned is lost"})
        made = config.keep_layers or config.narrow
        why = "without student, keep_layers or narrow, the original would learn from itself"
        return Order(after={} if made else {"prune": why}, not_after=not_after)

    def apply(self, model: "torch.nn.Module", context: StepContext) -> "tuple[torch.nn.Module, JsonRecord]":
        """Make the student and train it; an interrupted run goes on from its checkpoint in `context.folder`.

        Returns:
            The student, and how it was made.

        Raises:
            TaskError: the student cannot be made, or it, or a feature, does not fit the teacher.
            DataError: the training part is empty or not finite.
        """
        from headway.compress.teacher import learn, teacher_of

        config = self.config
        teacher = teacher_of(model, context)
        student, record = self._student(model, context)
        before, after = (sum(p.numel() for p in module.parameters()) for module in (teacher, student))
        factor = config.lr if config.lr is not None else 1 if config.student else 0.3
        settings = context.train.model_copy(
            update={"epochs": config.epochs, "lr": context.train.lr * factor, "seed": context.train.seed + 1}
        )
        loss = learn(
            student,
            teacher,
            config,
            context.task,
            settings,
            folder=context.folder,
            progress=context.progress,
            title="distill",
        )
        context.progress.say(f"distilled {before:,} parameters into {after:,} ({after / before:.1%}); loss {loss:.4f}")
        return student, {**record, "parameters": {"teacher": before, "student": after}, "loss": loss}

    def replay(self, model: "torch.nn.Module", record: Mapping[str, Any]) -> "torch.nn.Module":
        """The student's architecture: from its factory, or cut from the untouched model.

        Raises:
            TaskError: the factory, or a stack of layers, is no longer there.
            WeightsError: the model is not the one that the record was made of.
        """
        if record["student"]:
            return self._made(record["student"], 0)
        from headway.compress.depth import keep_layers

        model = keep_layers(model, record["keep_layers"])
        return Prune().replay(model, record["narrowed"]) if record["narrowed"] else model

    def _student(self, model: "torch.nn.Module", context: StepContext) -> "tuple[torch.nn.Module, JsonRecord]":
        """The untrained student, and what makes its architecture again."""
        config = self.config
        record: JsonRecord = {"student": config.student, "keep_layers": {}, "narrowed": None}
        if config.student:
            return self._made(config.student, context.train.seed), record
        if config.keep_layers:
            from headway.compress.depth import keep_layers
            from headway.compress.teacher import try_out

            record["keep_layers"] = {name: list(kept) for name, kept in config.keep_layers.items()}
            try_out(keep_layers(model, config.keep_layers), context.task)
        if config.narrow is not None:
            once = PruneConfig(keep=config.narrow, importance="l1", every=1, finetune_epochs=0)
            model, cut = Prune(once).apply(model, replace(context, folder=context.folder / "narrow"))
            record["narrowed"] = cut
        return model, record

    def _made(self, use: str, seed: int) -> "torch.nn.Module":
        from headway.tasks.factory import make_module
        from headway.tasks.loading import load_function

        return make_module(load_function(use, self.base), seed, "the student's factory").eval()
