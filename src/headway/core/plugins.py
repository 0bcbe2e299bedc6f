"""Cases that others can add: runtimes, steps and exports found through entry points.

Ours are declared in the same way (`pyproject.toml`), so there is one mechanism and no registration at import.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from headway.core.config import unknown_key
from headway.core.errors import ConfigError, MissingDependencyError

Group = Literal["headway.runtimes", "headway.steps", "headway.exports"]


@cache
def names(group: Group) -> dict[str, EntryPoint]:
    """Every case of `group` that is installed, by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load(group: Group, name: str) -> Any:
    """Import one case.

    Raises:
        ConfigError: nobody offers that name.
        MissingDependencyError: it is offered, but what it imports is not installed.
    """
    known = names(group)
    if name not in known:
        raise ConfigError(unknown_key(name, set(known)), where=group.removeprefix("headway."))
    try:
        return known[name].load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("headway"):
            raise  # not a package that the user lacks, but a mistake of whoever offers the case
        raise missing(error.name or name, needed_by=f"{group.removeprefix('headway.')}: {name}") from error


def missing(module: str, *, needed_by: str, extra: str = "ship") -> MissingDependencyError:
    """The error for a package that is not installed, with the command that installs it."""
    return MissingDependencyError(
        f"{module} is not installed", where=needed_by, remedy=f"Install it with: pip install 'headway[{extra}]'"
    )
