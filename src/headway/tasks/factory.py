"""Making a task's model: the user's own code, so what it raises is reported as theirs."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headway.core.errors import HeadwayError, TaskError
from headway.core.plugins import missing
from headway.tasks.task import Task

if TYPE_CHECKING:
    import torch


def build_model(task: Task, seed: int = 0) -> "torch.nn.Module":
    """The task's untrained module, with weights drawn from `seed`; the caller's random numbers stay as they were.

    Raises:
        TaskError: the task has no factory or a ready module in its place, the factory raises, or returns something
            else than a module.
        MissingDependencyError: torch is not installed.
    """
    if task.model is None:
        raise TaskError("the task has no model", remedy="Give Task(model=...) a function that makes a torch module.")
    return make_module(task.model, seed)


def make_module(
    factory: "Callable[[], torch.nn.Module]", seed: int, what: str = "the model factory"
) -> "torch.nn.Module":
    """What a user's function makes, with weights drawn from `seed`; see `build_model`, which raises the same."""
    try:
        import torch

        from headway.tasks.seeding import seeded
    except ModuleNotFoundError as error:
        raise missing("torch", needed_by="a task's model") from error
    if isinstance(factory, torch.nn.Module) or not callable(factory):
        raise TaskError(
            f"model must be a function that makes the module, got {type(factory).__name__} itself",
            where="task",
            remedy="Give Task(model=lambda: Net()), so that it can be made anew from a seed.",
        )
    with seeded(seed):
        try:
            model = factory()
        except HeadwayError:
            raise
        except Exception as error:
            raise user_error(what, error) from error
    if not isinstance(model, torch.nn.Module):
        raise TaskError(f"{what} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def user_error(what: str, error: BaseException) -> TaskError:
    """The user's exception as a `TaskError`, placed at the last line of code that is theirs."""
    return TaskError(f"{what} raised {type(error).__name__}: {error}", where=user_frame(error))


def user_frame(error: BaseException) -> str | None:
    """`file:line` of the innermost frame that is neither an installed package's nor the standard library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _installed(frame.filename)] or frames[-1:]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


_HEADWAY = Path(__file__).resolve().parents[1]
_LIBRARY = Path(traceback.__file__).resolve().parent


def _installed(filename: str) -> bool:
    path = Path(filename).resolve()
    inside = path.is_relative_to(_LIBRARY) or path.is_relative_to(_HEADWAY)
    return inside or filename.startswith("<") or bool({"site-packages", "dist-packages"} & set(path.parts))
