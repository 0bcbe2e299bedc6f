"""Where a bundle comes from: code, packages, machine."""

import subprocess
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from headway.bundles.manifest import Lineage, StepRecord
from headway.core import machine
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


def git_commit(folder: Path) -> str:
    """The commit checked out in `folder`, with "+changes" where files differ from it; "" outside a repository."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if head and _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def packages() -> dict[str, str]:
    """Name and version of every distribution installed here."""
    return {d.name.lower(): d.version for d in sorted(distributions(), key=lambda d: d.name.lower())}


def _git(folder: Path, *words: str) -> str:
    asked = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""
