"""`headway train`: the first stage of the road alone, in one process or many."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.core import plugins
from headway.core.errors import ConfigError, StorageError
from headway.core.files import atomic_file, write_atomic
from headway.core.progress import SILENT, Progress
from headway.runs.record import Run
from headway.shipping.build import Builder, identify, train_here
from headway.shipping.lineage import recorded
from headway.shipping.recipe import Recipe
from headway.shipping.store import Store, ship_cache


@dataclass(frozen=True)
class Trained:
    """What training left.

    Attributes:
        weights: the safetensors file.
        record: how it went, as `TrainResult.document` has it.
    """

    weights: Path
    record: dict[str, Any]


def train(
    recipe: Path,
    *,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    processes: int = 1,
    restarts: int = 3,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> Trained:
    """Train a recipe's model and write its weights; `ship` of the same recipe then takes it as it is.

    Args:
        out: the safetensors file, with the record beside it as `.json`; by default the recipe's name, here.
        overrides: `key.key=value` texts that win over the recipe's file.
        processes: on this machine.
        restarts: how often all of them are started again after one was lost.
        fresh: take nothing from earlier runs.

    Raises:
        UsageError: the recipe, the task or the data are wrong; nothing was written to `out`.
        WorkerError: a process was lost more often than `restarts`.
        MissingDependencyError: a package of the `ship` extra is not installed.
    """
    from headway.tasks.checks import check
    from headway.tasks.factory import build_model
    from headway.tasks.loading import load_task, source_digest
    from headway.train import layers
    from headway.train.mix import resolve

    _need_torch()
    read = _read(recipe, overrides)
    resolve(read.config.train.parallel, processes)
    target = (out or Path(f"{read.config.name}.safetensors")).resolve()
    if target.is_dir():
        raise StorageError("is a folder", where=str(target), remedy="Give --out the name of a file.")
    asked = read.config.task
    task = load_task(asked.use, asked.args, read.base)
    check(task, progress)
    if (share := read.config.train.parallel).tensor > 1:
        layers.plan(build_model(task), share.tensor, share.plan)

    store = Store(ship_cache(), progress, fresh=fresh)
    identity = identify(read, task, source_digest(asked.use, read.base))
    with recorded("train", read, identity) as run:

        def spread(weights: Path, checkpoints: Path) -> None:
            from headway.train.launch import launch

            settings = [word for text in overrides for word in ("--set", text)]
            folders = ["--out", str(weights), "--checkpoints", str(checkpoints), "--record", str(run.folder)]
            try:
                launch(["train", str(recipe), *folders, *settings], processes, restarts, progress)
            finally:
                run.take_up()

        builder = Builder(read, task, identity, store, progress, run, trainer=spread if processes > 1 else None)
        weights = builder.original_weights()
        with atomic_file(target) as copy:
            shutil.copyfile(weights, copy)
        record = builder.trained()
        write_atomic(target.with_suffix(".json"), json.dumps(record, indent=2))
        run.end(
            "finished", result={"weights": str(target), **{key: record[key] for key in ("loss", "steps", "seconds")}}
        )
    return Trained(target, record)


def work(
    recipe: Path,
    *,
    out: Path | None,
    checkpoints: Path | None,
    overrides: Sequence[str],
    progress: Progress,
    record: Path | None = None,
) -> None:
    """The same in a process that torchrun started; the first of them writes the weights.

    Args:
        checkpoints: a folder that every process sees; by default beside `out`.
        record: folder of the run's record, which the first process writes curves into; None keeps none.
    """
    from headway.tasks.loading import load_task
    from headway.train.world import join

    _need_torch()
    read = _read(recipe, overrides)
    weights = (out or Path(f"{read.config.name}.safetensors")).resolve()
    asked = read.config.task
    with join(read.config.train) as world:
        task = load_task(asked.use, asked.args, read.base)
        told, run = (progress, Run.of(record) if record else None) if world.rank == 0 else (SILENT, None)
        folder = checkpoints or weights.with_suffix(".checkpoints")
        train_here(read, task, weights, folder, told, run=run, world=world)


def _read(recipe: Path, overrides: Sequence[str]) -> Recipe:
    read = Recipe.load(recipe, overrides)
    if read.config.model is not None:
        raise ConfigError("the recipe brings a trained model; there is nothing to train", where=str(recipe))
    return read


def _need_torch() -> None:
    try:
        import torch  # noqa: F401  (everything below needs it; better said before any work)
    except ModuleNotFoundError as error:
        raise plugins.missing("torch", needed_by="headway train") from error
