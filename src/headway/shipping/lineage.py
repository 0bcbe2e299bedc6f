"""Where a bundle comes from: code, packages, machine."""

from collections.abc import Mapping
from typing import Any

from headway.bundles.manifest import Lineage, StepRecord
from headway.core import machine
from headway.runs.provenance import git_commit, packages
from headway.shipping.build import Identity
from headway.shipping.recipe import Recipe


def lineage(
    recipe: Recipe, identity: Identity, steps: Mapping[str, tuple[StepRecord, ...]], search: dict[str, Any]
) -> Lineage:
    """The record that travels in the manifest; `steps` by variant id, `search` empty where there was none."""
    return Lineage(
        task=identity.task,
        task_arguments=identity.arguments,
        data_sha256=identity.data_sha256,
        source_sha256=identity.source_sha256,
        training={} if recipe.config.model else recipe.config.train.model_dump(mode="json"),
        steps=dict(steps),
        search=search,
        git_commit=git_commit(recipe.base),
        packages=packages(),
        machine=machine.here(),
    )
