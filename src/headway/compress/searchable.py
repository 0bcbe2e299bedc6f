"""What a step's configuration says may be searched (`steps: auto`): metadata beside the field it is about.

    keep: Annotated[float, Between(0.2, 0.9)] = Field(0.6, gt=0, lt=1, description="...")
    epochs: Annotated[float, Between(0.5, 4, effort=True)] = Field(2, gt=0, description="...")
    scope: Annotated[Literal["global", "layer"], OneOf()] = Field("global", description="...")

A field without it keeps its default; a step without any such field takes no part in a search.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from headway.core.config import Config

Value = Any  # plain JSON, as a recipe would have it


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, both included; whole ones where both are.

    Attributes:
        log: even over their logarithm.
        effort: the step's time grows with it, as with epochs: early rungs of a search take a share of it.
    """

    low: float
    high: float
    log: bool = False
    effort: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def admits(self, value: Value) -> bool:
        """Whether it lies in range."""
        return isinstance(value, int if self.whole else int | float) and self.low <= value <= self.high

    def start(self) -> Value:
        """Where to start when the default lies outside."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(middle) if self.whole else middle

    def share(self, value: Value, share: float) -> Value:
        """A share of the value; a whole number stays one, and at least 1."""
        return max(1, round(value * share)) if self.whole else value * share

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, init=False)
class OneOf:
    """These values: plain JSON; a mapping stands for a configuration within. None: those of the field's Literal."""

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        object.__setattr__(self, "values", values)

    def admits(self, value: Value) -> bool:
        """Whether it is one of them."""
        return value in self.values

    def start(self) -> Value:
        """Where to start when the default is none of them."""
        return self.values[0]

    def __str__(self) -> str:
        return ", ".join(value if isinstance(value, str) else json.dumps(value) for value in self.values)


Domain = Between | OneOf


def domains(config: type[Config]) -> dict[str, Domain]:
    """What may be searched, by field."""
    found: dict[str, Domain] = {}
    for name, field in config.model_fields.items():
        for note in field.metadata:
            if isinstance(note, Domain):
                bare = isinstance(note, OneOf) and not note.values
                found[name] = OneOf(*get_args(field.annotation)) if bare else note
    return found


def starts(config: type[Config]) -> dict[str, Value]:
    """Where a search starts: each field's default, or the domain's own start where that may not be searched."""
    found = {}
    for name, domain in domains(config).items():
        default = config.model_fields[name].get_default(call_default_factory=True)
        found[name] = default if domain.admits(default) else domain.start()
    return found


def with_effort(config: type[Config], values: Mapping[str, Value], share: float) -> dict[str, Value]:
    """`values` with a share of the effort."""
    found = dict(values)
    for name, domain in domains(config).items():
        if isinstance(domain, Between) and domain.effort:
            found[name] = domain.share(found[name], share)
    return found
