"""The whole examination."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.core import machine
from headway.core.errors import MissingDependencyError, StorageError
from headway.core.machine import Machine
from headway.doctor import needs, nvidia, packages, rules, system
from headway.doctor.facts import gather
from headway.doctor.finding import Finding, Severity, fail, ok, verdict
from headway.doctor.probe import Probe

RECIPES = (".yaml", ".yml")


@dataclass(frozen=True)
class Report:
    """What was found, in the order in which it was looked at."""

    machine: Machine
    findings: list[Finding]
    target: str | None = None

    @property
    def verdict(self) -> Severity:
        """The worst finding's."""
        return verdict(self.findings)

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "verdict": self.verdict.value,
            "target": self.target,
            "machine": self.machine.model_dump(mode="json"),
            "findings": [finding._asdict() for finding in self.findings],
        }


def examine(target: str | None = None, *, run: bool = False, probe: Probe | None = None) -> Report:
    """Look at the machine and the environment; at what a bundle or a recipe needs of them; and try them.

    Args:
        target: a bundle's path, a registry reference, or a recipe (`.yaml`).
        run: also run a tiny model in each runtime, and a torch step: seconds, and the only part that imports engines.
        probe: where to look; by default here.

    Raises:
        UsageError: there is no such bundle or recipe, or it is not sound.
    """
    probe = probe or Probe()
    here, gpus, known = machine.at(probe.root), nvidia.look(probe), rules.load()
    facts = gather(probe, gpus)
    found = [
        *system.check(probe, here),
        *nvidia.check(probe, gpus),
        *packages.check(probe, known, facts),
        *rules.apply(known, facts),
    ]
    if target is not None:
        found += _needs(target, probe, known, here)
    if run:
        from headway.doctor import trial

        found += trial.check(probe)
    return Report(here, found, target)


def _needs(target: str, probe: Probe, known: rules.Rules, here: Machine) -> list[Finding]:
    area = "recipe" if target.endswith(RECIPES) else "bundle"
    try:
        if area == "recipe":
            return [ok(area, area, target), *needs.of_recipe(Path(target), probe, known)]
        from headway.serve.loading import find

        return [ok(area, area, target), *needs.of_bundle(find(target)[0], probe, known, here)]
    except (StorageError, MissingDependencyError) as error:  # what stands in the way is of this machine
        return [fail(area, area, f"{error.where}: {error.message}", error.remedy or "")]
