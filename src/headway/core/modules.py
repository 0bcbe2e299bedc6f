"""Calling a torch module by name, written without torch so that both halves may use it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from headway.core.errors import TaskError

T = TypeVar("T")


def forward(module: Callable[..., Any], inputs: Mapping[str, T], outputs: Sequence[str]) -> dict[str, T]:
    """Call `module` with the inputs in their order and name what it returns.

    A module may return one tensor, a tuple, or a mapping (as Hugging Face models do). Extra outputs are dropped.

    Raises:
        TaskError: fewer outputs came back than `outputs` names, or a mapping lacks one of them.
    """
    returned = module(*inputs.values())
    if isinstance(returned, Mapping):
        absent = [name for name in outputs if name not in returned]
        if absent:
            raise TaskError(
                f"the model returns {sorted(returned)}, not {absent[0]!r}", remedy="Set output_names in the task."
            )
        return {name: returned[name] for name in outputs}
    several = returned if isinstance(returned, tuple | list) else (returned,)
    if len(several) < len(outputs):
        raise TaskError(f"the model returns {len(several)} outputs where the task names {len(outputs)}")
    return dict(zip(outputs, several, strict=False))
