"""Which variants a recipe asks for: every combination of its steps, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from headway.shipping.recipe import StepChoice

ORIGINAL = "original"
_PAST = {"prune": "pruned", "quantize": "quantized", "distill": "distilled"}


@dataclass(frozen=True)
class Plan:
    """One variant to build."""

    id: str
    module_steps: tuple[StepChoice, ...]
    graph_steps: tuple[StepChoice, ...]

    @property
    def steps(self) -> tuple[StepChoice, ...]:
        """All of them, in order."""
        return self.module_steps + self.graph_steps


UNCHANGED = Plan(ORIGINAL, (), ())


def plan(steps: Sequence[StepChoice], suffix: str = "") -> Plan:
    """These steps as one variant; `suffix` tells apart what has the same steps with other settings."""
    return Plan(
        "-".join(_PAST.get(step.name, step.name) for step in steps) + suffix or ORIGINAL,
        tuple(step for step in steps if step.stage == "module"),
        tuple(step for step in steps if step.stage == "graph"),
    )


def plans(steps: Sequence[StepChoice]) -> tuple[Plan, ...]:
    """The original first, then one plan for each non-empty combination of steps, fewest steps first.

    A step that needs another comes only with it.
    """
    found = []
    for size in range(len(steps) + 1):
        for chosen in combinations(steps, size):
            needed = {name for step in chosen for name in (*step.order.after, *step.order.before)}
            if needed <= {step.name for step in chosen}:
                found.append(plan(chosen))
    return tuple(found)
