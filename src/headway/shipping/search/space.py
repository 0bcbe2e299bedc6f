"""What `steps: auto` may try: sequences of steps that a recipe could name, with settings that the steps declare."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any

from pydantic import ValidationError

from headway.compress.searchable import Between, Domain, Value, domains, starts, with_effort
from headway.core import plugins
from headway.core.config import Config, Source
from headway.core.errors import ConfigError, MissingDependencyError
from headway.shipping.recipe import Recipe, StepChoice, check_order

_LONGEST = 4  # steps of a recipe
_DRAWS = 16  # of settings, by which it is seen whether a sequence can be legal at all


@dataclass(frozen=True)
class Candidate:
    """Steps in order, each with values of what may be searched of it."""

    steps: tuple[tuple[str, Mapping[str, Value]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The steps' names."""
        return tuple(name for name, _ in self.steps)

    def document(self) -> list[dict[str, Any]]:
        """As a recipe's `steps` would have it."""
        return [{name: dict(values)} for name, values in self.steps]

    def key(self) -> str:
        """Equal for equal candidates."""
        return json.dumps(self.document(), sort_keys=True)

    def __str__(self) -> str:
        """On one line, as YAML's flow style."""
        parts = (
            f"{name}: {{{', '.join(f'{k}: {_shown(v)}' for k, v in values.items())}}}" for name, values in self.steps
        )
        return ", ".join(parts)


class Space:
    """Everything that may be tried for a recipe.

    Args:
        recipe: with `auto`; what may follow what is asked of the same check that recipes are held to.

    Raises:
        ConfigError: nothing may be tried.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        asked = recipe.auto.allow if recipe.auto is not None else None
        self._configs: dict[str, type[Config]] = {}
        for name in asked or plugins.names("headway.steps"):
            try:
                config = plugins.load("headway.steps", name).Config
            except MissingDependencyError:
                if asked:
                    raise
                continue  # of steps that nobody named, those count that are whole
            if domains(config):
                self._configs[name] = config
            elif asked:
                raise ConfigError(f"{name} does not say what may be searched of it", where="steps.auto.allow")
        if not self.sequences:
            names = ", ".join(asked or plugins.names("headway.steps"))
            raise ConfigError(
                f"nothing can be searched: none of {names} both says what may be searched and fits this model",
                where="steps.auto",
                remedy="Allow other steps, or name them with their settings.",
            )

    @cached_property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """Orders of steps that some settings make legal; short ones first."""
        draw = random.Random(0)  # noqa: S311  (settings, no secrets)
        tried = {name: [starts(c), *(_drawn(c, draw) for _ in range(_DRAWS))] for name, c in self._configs.items()}
        orders = (o for size in range(1, _LONGEST + 1) for o in permutations(self._configs, size))
        return tuple(
            order
            for order in orders
            if any(self.choices(Candidate(tuple((name, tried[name][i]) for name in order))) for i in range(_DRAWS + 1))
        )

    def reduced(self, candidate: Candidate, share: float) -> Candidate:
        """The candidate with a share of its effort."""
        return Candidate(tuple((name, with_effort(self._configs[name], vs, share)) for name, vs in candidate.steps))

    def choices(self, candidate: Candidate) -> tuple[StepChoice, ...]:
        """The candidate's steps; empty if no recipe could ask for them."""
        try:
            steps = tuple(self._choice(name, values) for name, values in candidate.steps)
            check_order(self.recipe.config, steps, Source("steps: auto"))
        except (ConfigError, ValidationError):
            return ()
        # A function of the user's belongs into a recipe that names it.
        return steps if all(step.uses is None for step in steps) else ()

    def admits(self, candidate: Candidate, least: float) -> bool:
        """Whether it is legal with the whole effort and with the least share of it."""
        return bool(self.choices(candidate) and self.choices(self.reduced(candidate, least)))

    def takes_effort(self, candidate: Candidate) -> bool:
        """Whether its time grows with an effort that can be reduced."""
        found = (domain for name in candidate.names for domain in domains(self._configs[name]).values())
        return any(isinstance(domain, Between) and domain.effort for domain in found)

    def first(self) -> list[Candidate]:
        """Legal sequences of one and two steps with their defaults: what costs no training first, then what ends as a
        changed graph.
        """
        short = (order for order in self.sequences if len(order) < 3)
        made = (Candidate(tuple((name, starts(self._configs[name])) for name in order)) for order in short)
        legal = [(candidate, choices) for candidate in made if (choices := self.choices(candidate))]
        legal.sort(key=lambda pair: (self.takes_effort(pair[0]), pair[1][-1].stage != "graph"))
        return [candidate for candidate, _ in legal]

    def domains(self, name: str) -> dict[str, Domain]:
        """What may be searched of a step."""
        return domains(self._configs[name])

    def drawn(self, draw: random.Random) -> Candidate:
        """Any sequence with any settings, legal or not."""
        return Candidate(tuple((name, _drawn(self._configs[name], draw)) for name in draw.choice(self.sequences)))

    def _choice(self, name: str, values: Mapping[str, Value]) -> StepChoice:
        return StepChoice.of(name, self._configs[name].model_validate(dict(values)), self.recipe.base)


def _drawn(config: type[Config], draw: random.Random) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, domain in domains(config).items():
        if isinstance(domain, Between):
            found[name] = (
                draw.randint(int(domain.low), int(domain.high))
                if domain.whole
                else draw.uniform(domain.low, domain.high)
            )
        else:
            found[name] = draw.choice(domain.values)
    return found


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
