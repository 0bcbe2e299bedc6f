"""Where a bundle comes from: code, packages, machine; and the record that a run leaves."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from headway.bundles.manifest import Lineage, StepRecord
from headway.core import machine
from headway.runs.provenance import data_files, git_commit, named, packages
from headway.runs.record import Run, recording
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


def recorded(kind: str, recipe: Recipe, identity: Identity) -> AbstractContextManager[Run]:
    """A record of the block, which stays whatever becomes of the run; see `recording`."""
    config = recipe.config
    return recording(
        kind,
        config.name,
        base=recipe.base,
        recipe=config.model_dump(mode="json"),
        seed=config.train.seed,
        data={"sha256": identity.data_sha256, "files": data_files(named(config.task.args, recipe.base))},
    )
