"""Training a student under a teacher.

Logits: cross-entropy against the teacher's softened classes (Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network"). Features: the outputs of the student's layers, linearly projected, are to give the teacher's (Romero et al.
2015, "FitNets"); the projections are learned beside and thrown away.

The usual loop trains a module that runs both models, so that what it promises of checkpoints holds here too.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from headway.compress.step import StepContext
from headway.compress.teaching import TeachingConfig
from headway.core.config import unknown_key
from headway.core.errors import TaskError
from headway.core.files import digest_json
from headway.core.modules import forward
from headway.core.progress import Progress
from headway.tasks import Task
from headway.tasks.seeding import seeded
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.objective import cross_entropy

_LESSON = "headway.lesson"  # the output that carries the teacher's share of the loss


def teacher_of(model: nn.Module, context: StepContext) -> nn.Module:
    """The original; where the context knows none, `model` as it is now."""
    return context.original() if context.original is not None else copy.deepcopy(model)


def try_out(student: nn.Module, task: Task) -> dict[str, torch.Tensor]:
    """Its outputs of two training rows, by name, in evaluation mode.

    Raises:
        TaskError: it does not run.
    """
    inputs, _ = task.parts.train.batch(np.arange(min(2, len(task.parts.train))))
    device = next(student.parameters()).device
    with torch.no_grad():
        try:
            tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
            return forward(student.eval(), tensors, task.output_names)
        except Exception as error:
            raise TaskError(
                f"the student does not run: {type(error).__name__}: {error}",
                where="distill",
                remedy="It must take the task's inputs; of keep_layers, each must take what the one before it gives.",
            ) from error


def learn(
    student: nn.Module,
    teacher: nn.Module,
    config: TeachingConfig,
    task: Task,
    settings: TrainConfig,
    *,
    folder: Path,
    progress: Progress,
    title: str,
) -> float:
    """Train `student` in place and give its loss, the mean over the last epoch; see `headway.train.loop.fit`.

    Args:
        student: comes back in evaluation mode.
        teacher: learns nothing, and runs in evaluation mode.
        config: what is learned.
        task: data, its own loss and augmentation; both models see the same augmented inputs.
        settings: how it is trained.
        folder: where checkpoints lie.
        progress: told of the training.
        title: of the progress bar.

    Raises:
        TaskError: the two models' outputs or features do not fit, or there is no such layer.
        DataError: the training part is empty, or not finite.
    """
    with seeded(settings.seed):
        taught = _Taught(student, teacher, config, task.output_names)
        try:
            taught.look(task)
            return fit(taught, taught.task(task), settings, folder=folder, progress=progress, title=title).loss
        finally:
            taught.close()


class _Taught(nn.Module):
    """A student whose forward pass also runs the teacher.

    Returns the student's outputs, and as one more the teacher's share of the loss.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, config: TeachingConfig, output_names: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.config, self.names = config, output_names
        self.projections = nn.ModuleList()
        # A checkpoint belongs to a run by the module's state: with other settings it is another run.
        digest = bytes.fromhex(digest_json(config.model_dump(mode="json")))
        self.register_buffer("settings", torch.tensor(list(digest), dtype=torch.uint8))
        self._seen: dict[tuple[str, int], torch.Tensor] = {}
        self._hooks = [
            _layer(model, name, whose).register_forward_hook(self._keep(whose, place))
            for place, pair in enumerate(config.features.items())
            for model, name, whose in zip((teacher, student), pair, ("teacher", "student"), strict=True)
        ]

    def look(self, task: Task) -> None:
        """Run both models once, and make the projections that their features need."""
        mine, theirs = (try_out(model, task) for model in (self.student, self.teacher))
        for name in self.names:
            if mine[name].shape != theirs[name].shape:
                raise TaskError(
                    f"output {name!r} of 2 rows is {list(mine[name].shape)} of the student "
                    f"and {list(theirs[name].shape)} of the teacher",
                    where="distill",
                )
        logits = theirs[self.names[0]]
        if self.config.weight and (logits.dim() < 2 or logits.shape[1] < 2):
            raise TaskError(
                f"output {self.names[0]!r} is {list(logits.shape)}; logits are [rows, classes, ...]",
                where="distill",
                remedy="Set weight: 0 and learn from features.",
            )
        for place, (wanted, have) in enumerate(self.config.features.items()):
            where = f"features: {{{wanted}: {have}}}"
            self.projections.append(_projection(*self._pair(place, where), where))
        self._seen.clear()

    def task(self, task: Task) -> Task:
        """The task, with the teacher's share in its loss."""
        own, share = task.loss or cross_entropy, 1 - self.config.weight

        def loss(outputs: Mapping[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
            lesson = outputs[_LESSON]
            return share * own({name: outputs[name] for name in self.names}, targets) + lesson if share else lesson

        return replace(task, loss=loss, output_names=(*self.names, _LESSON))

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The student's outputs by name, and the lesson, a scalar."""
        given = dict(zip(map(str, range(len(inputs))), inputs, strict=True))
        outputs = forward(self.student, given, self.names)
        with torch.no_grad():
            theirs = forward(self.teacher, given, self.names)
        first, config = self.names[0], self.config
        lesson = outputs[first].new_zeros((), dtype=torch.float32)
        if config.weight:
            lesson = config.weight * soft_loss(outputs[first], theirs[first], config.temperature)
        for place, projection in enumerate(self.projections):
            wanted, have = self._pair(place, "features")
            lesson = lesson + config.feature_weight * feature_loss(projection(have), wanted)
        self._seen.clear()
        return {**outputs, _LESSON: lesson}

    def train(self, mode: bool = True) -> "_Taught":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def close(self) -> None:
        """Take the hooks off the student."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, whose: str, place: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._seen[whose, place] = output[0] if isinstance(output, tuple) else output

        return hook

    def _pair(self, place: int, where: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's and the student's feature."""
        pair = self._seen.get(("teacher", place)), self._seen.get(("student", place))
        if not isinstance(pair[0], torch.Tensor) or not isinstance(pair[1], torch.Tensor):
            raise TaskError("a layer was not called, or gives no tensor", where=where, remedy="Name another layer.")
        return pair[0], pair[1]


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divergence (KL) of the student's softened classes from the teacher's, the mean over rows, by temperature squared.

    The square keeps the gradients' size, which falls with it (Hinton et al. 2015, section 2).

    Args:
        student: logits, [N, classes, ...].
        teacher: of the same shape.
        temperature: what both are divided by.
    """
    have, wanted = (functional.log_softmax(logits.float() / temperature, 1) for logits in (student, teacher))
    rows = have.numel() / have.shape[1]
    return functional.kl_div(have, wanted, log_target=True, reduction="sum") * (temperature**2 / rows)


def feature_loss(projected: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error, as a share of the teacher's mean square: layers of any scale then weigh the same."""
    wanted = teacher.float()
    return functional.mse_loss(projected.float(), wanted) / wanted.square().mean().clamp_min(1e-12)


def _projection(teacher: torch.Tensor, student: torch.Tensor, where: str) -> nn.Module:
    """From the student's channels to the teacher's: a 1x1 convolution of [N, C, H, W], else linear in the last one."""
    channels = 1 if teacher.dim() == 4 else -1
    have, wanted = (list(value.shape) for value in (student, teacher))
    width, out = have.pop(channels), wanted.pop(channels)
    if have != wanted:
        raise TaskError(
            f"the features are {list(student.shape)} of the student and {list(teacher.shape)} of the teacher; "
            "only their channels may differ",
            where=where,
            remedy="Name two layers of the same resolution.",
        )
    made = nn.Conv2d(width, out, 1) if teacher.dim() == 4 else nn.Linear(width, out)
    return made.to(teacher.device)


def _layer(model: nn.Module, name: str, whose: str) -> nn.Module:
    known = {found for found, _ in model.named_modules() if found}
    if name not in known:
        raise TaskError(f"the {whose} has no such layer: {unknown_key(name, known, 'layer')}", where="features")
    return model.get_submodule(name)
