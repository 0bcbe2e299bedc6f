"""Builds the model files that a recipe asks for, each stage once.

    train or load -> module steps -> export -> graph steps
                                           '-> the last of them in OpenVINO's own form

Every stage's result is kept in the store, so that variants share what they have in common.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.bundles.manifest import StepRecord
from headway.compress import nncf
from headway.compress.quantize import QuantizeConfig
from headway.core import machine, plugins
from headway.core.config import Config
from headway.core.files import digest_file, digest_json, write_atomic
from headway.core.progress import Progress
from headway.core.tensors import Array
from headway.runs.record import Run
from headway.runtimes.formats import model_files, require_whole_onnx
from headway.runtimes.onnx_file import read_onnx
from headway.shipping.ledger import Scorer, spent
from headway.shipping.plan import UNCHANGED, Plan
from headway.shipping.recipe import Recipe, StepChoice
from headway.shipping.store import Store
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.loading import load_function, source_digest

if TYPE_CHECKING:
    import torch

    from headway.train.world import World

_WEIGHTS, _RECORD = "weights.safetensors", "record.json"
_TOOLS = ("headway", "torch", "onnx", "onnxscript", "onnxruntime", "torch-pruning")


@dataclass(frozen=True)
class Built:
    """A variant's model file, ready to be measured."""

    plan: Plan
    file: Path
    format: str
    precision: str
    records: tuple[StepRecord, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and what belongs to it: IR has its weights beside it."""
        return model_files(self.file)

    @property
    def size_mb(self) -> float:
        """Of all files, in units of 10^6 bytes."""
        return sum(file.stat().st_size for file in self.files) / 1e6

    @property
    def digest(self) -> str:
        """Of all files."""
        found = [digest_file(file) for file in self.files]
        return found[0] if len(found) == 1 else digest_json(found)


@dataclass(frozen=True)
class Identity:
    """What a recipe stands on: everything that results depend on beside its settings."""

    task: str
    arguments: dict[str, Any]
    data_sha256: str
    source_sha256: str
    model_sha256: str
    versions: dict[str, str]

    def key(self) -> dict[str, Any]:
        """As plain JSON."""
        return dict(self.__dict__)


def identify(recipe: Recipe, task: Task, source_sha256: str) -> Identity:
    """Digest the data and the model files, and note the versions of what will compute."""
    given = recipe.weights or recipe.onnx
    seed = recipe.config.train.seed
    return Identity(
        task=recipe.config.task.use,
        arguments=recipe.config.task.args,
        data_sha256=task.parts.digest(),
        source_sha256=source_sha256,
        model_sha256=digest_file(given) if given else _start(task, seed),
        versions={name: version(name) for name in _TOOLS},
    )


def train_here(
    recipe: Recipe,
    task: Task,
    weights: Path,
    checkpoints: Path,
    progress: Progress,
    *,
    run: Run | None = None,
    world: "World | None" = None,
) -> None:
    """Train the recipe's model; the first process writes `weights`, and how it went beside it, as `.json`.

    Args:
        checkpoints: a folder.
        run: the record that training is written into, if there is one.
        world: the processes that train together.
    """
    from headway.train.loop import fit
    from headway.train.run_log import writers
    from headway.train.weights import save_weights
    from headway.train.world import ALONE

    world, settings = world or ALONE, recipe.config.train
    model = build_model(task, settings.seed)
    with writers(settings.log if world.rank == 0 else (), run) as monitors:
        result = fit(model, task, settings, folder=checkpoints, progress=progress, monitors=monitors, world=world)
    if world.rank == 0:
        save_weights(model, weights)
        write_atomic(weights.with_suffix(".json"), json.dumps(result.document(), indent=2))


def _start(task: Task, seed: int) -> str:
    """Digest of the weights that training begins with, which a factory may read from a file or make in any way."""
    from headway.train.checkpoint import state_digest

    return state_digest(build_model(task, seed).state_dict())


class Builder:
    """Builds variants of one recipe.

    Args:
        recipe: what is asked.
        task: its task, checked.
        identity: what results depend on.
        store: where they are kept.
        progress: told of long work.
        run: the record that training is written into, if there is one.
        trainer: trains the model in other processes, as `train_here` does in this one; None trains here.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        identity: Identity,
        store: Store,
        progress: Progress,
        run: Run | None = None,
        trainer: Callable[[Path, Path], None] | None = None,
    ) -> None:
        self._run, self._trainer = run, trainer
        self.recipe, self.task, self.store, self.progress = recipe, task, store, progress
        self._identity = identity.key()
        self._threads = recipe.config.target.threads
        self._scorer = Scorer(task, self._threads)
        self._code = {}  # of the user's functions that steps run: looked for before any work
        for uses in (step.uses for step in recipe.steps):
            if uses is not None:
                load_function(uses, recipe.base)
                self._code[uses] = source_digest(uses, recipe.base)

    def build(self, plan: Plan) -> Built:
        """Everything that `plan` needs, from the store or anew."""
        return self._built(plan, plan.graph_steps)

    def build_openvino(self, plan: Plan) -> Built | None:
        """The same with OpenVINO's own 8 bits in the place of the last step's; None where `has_openvino` is false.

        Raises:
            MissingDependencyError: the environment of what makes them cannot be made.
            WorkerError: it failed.
        """
        if not has_openvino(plan):
            return None
        before, step = self._built(plan, plan.graph_steps[:-1]), plan.graph_steps[-1]
        if before.precision != "fp32":
            return None
        folder = self._openvino(before.file, step, plan)
        record = self._record(folder, step)
        return Built(plan, folder / "model.xml", "openvino", "int8", (*before.records, record))

    def _built(self, plan: Plan, graph_steps: Sequence[StepChoice]) -> Built:
        if self.recipe.onnx is not None:
            file, records = self.recipe.onnx, []
        else:
            folders = self._module_folders(plan)
            file = self._export(folders, plan)
            records = [self._record(folder, step) for folder, step in zip(folders[1:], plan.module_steps, strict=True)]
        precision = "fp32" if self.recipe.onnx is None else read_onnx(file).precision
        for step in graph_steps:
            folder = self._graph(file, step, plan)
            file = folder / "model.onnx"
            records.append(self._record(folder, step))
            precision = step.make().precision
        require_whole_onnx(file)
        return Built(plan, file, "onnx", precision, tuple(records))

    def original(self) -> "torch.nn.Module":
        """The trained module, in evaluation mode."""
        return self._module(self._module_folders(UNCHANGED), UNCHANGED)

    def trained(self) -> dict[str, Any]:
        """What training came to, as `TrainResult` has it; empty where the recipe brings a model."""
        if self.recipe.config.model is not None:
            return {}
        found: dict[str, Any] = json.loads(self.original_weights().with_suffix(".json").read_text(encoding="utf-8"))
        return found

    def original_weights(self) -> Path:
        """The original's weights: what sizes are compared with."""
        return self.recipe.onnx or self._module_folders(UNCHANGED)[0] / _WEIGHTS

    def key(self, plan: Plan) -> dict[str, Any]:
        """What all of `plan` depends on, as plain JSON."""
        train = self.recipe.config.train.decisive()
        return {
            "identity": self._identity,
            "train": train,
            "threads": self._threads,
            "steps": [self._step_key(step, plan) for step in plan.steps],
        }

    # -- stages ----------------------------------------------------------------------------------------------------

    def _module_folders(self, plan: Plan) -> list[Path]:
        """The folder of the trained model, then one for each module step."""
        key: dict[str, Any] = {"identity": self._identity, "train": self.recipe.config.train.decisive()}
        folders = [self.store.stage("train", key, self._load if self.recipe.weights else self._train)]
        for step in plan.module_steps:
            key = {"before": key, **self._step_key(step, plan)}
            folders.append(self.store.stage("module", key, partial(self._apply, step, plan, tuple(folders))))
        return folders

    def _train(self, out: Path, scratch: Path) -> None:
        if self._trainer is not None:
            self._trainer(out / _WEIGHTS, scratch)
        else:
            train_here(self.recipe, self.task, out / _WEIGHTS, scratch, self.progress, run=self._run)

    def _load(self, out: Path, scratch: Path) -> None:
        from headway.train.weights import load_weights, save_weights

        assert self.recipe.weights is not None  # noqa: S101  (the caller chose this stage because of it)
        model = build_model(self.task)
        load_weights(model, self.recipe.weights)
        save_weights(model, out / _WEIGHTS)

    def _apply(self, step: StepChoice, plan: Plan, before: Sequence[Path], out: Path, scratch: Path) -> None:
        from headway.train.weights import save_weights

        with spent(scratch) as seconds:
            model = self._module(before, plan)
            had = self._scorer.module(model)
            model, record = step.make().apply(model, self._context(scratch, step, plan))
            save_weights(model, out / _WEIGHTS)
            self._write(out, step, record, (had, self._scorer.module(model)), seconds())

    def _export(self, folders: Sequence[Path], plan: Plan) -> Path:
        export = plugins.load("headway.exports", "onnx")()

        def build(out: Path, scratch: Path) -> None:
            with self.progress.work("export to ONNX", 1) as bar:
                model = self._module(folders, plan)
                names, varying = self.task.output_names, self.task.varying
                export.write(model, self.example(2), names, out / "model.onnx", varying)
                bar.advance(1)

        key = {"weights": digest_file(folders[-1] / _WEIGHTS), "from": folders[-1].name, "identity": self._identity}
        return self.store.stage("export", key, build) / "model.onnx"

    def _graph(self, file: Path, step: StepChoice, plan: Plan) -> Path:
        def build(out: Path, scratch: Path) -> None:
            with spent(scratch) as seconds:
                record = step.make().apply(file, out / "model.onnx", self._context(scratch, step, plan))
                scores = self._scorer.graph(file), self._scorer.graph(out / "model.onnx")
                self._write(out, step, record, scores, seconds())

        key = {"graph": digest_file(file), "identity": self._identity, **self._step_key(step, plan)}
        return self.store.stage("graph", key, build)

    def _openvino(self, file: Path, step: StepChoice, plan: Plan) -> Path:
        def build(out: Path, scratch: Path) -> None:
            config = step.config
            assert isinstance(config, QuantizeConfig)  # noqa: S101  (as has_openvino said)
            with spent(scratch) as seconds:
                record = nncf.quantize(file, out / "model.xml", config, self._context(scratch, step, plan))
                scores = self._scorer.graph(file), self._scorer.graph(out / "model.xml", "openvino")
                self._write(out, step, record, scores, seconds())

        key = {"graph": digest_file(file), "identity": self._identity, **self._step_key(step, plan), **nncf.key()}
        return self.store.stage("graph", key, build)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def example(self, rows: int) -> dict[str, Array]:
        """Inputs by name, each [rows, ...], from the head of the calibration part."""
        inputs, _ = self.task.parts.calibration.batch(np.arange(rows) % len(self.task.parts.calibration))
        return inputs

    def _module(self, folders: Sequence[Path], plan: Plan) -> "torch.nn.Module":
        """Rebuilt from the factory, the records of as many steps as `folders` has, and the last folder's weights."""
        from headway.train.weights import load_weights

        model = build_model(self.task)
        for folder, step in zip(folders[1:], plan.module_steps, strict=False):
            saved = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            model = step.make().replay(model, saved["record"])
        load_weights(model, folders[-1] / _WEIGHTS)
        return model.eval()

    def _context(self, scratch: Path, step: StepChoice, plan: Plan) -> Any:
        from headway.compress.step import StepContext

        return StepContext(
            task=self.task,
            train=self.recipe.config.train,
            machine=machine.here(),
            folder=scratch,
            progress=self.progress,
            threads=self._threads,
            following=_following(step, plan),
            original=self.original,
        )

    def _step_key(self, step: StepChoice, plan: Plan) -> dict[str, Any]:
        following = _following(step, plan)
        return {
            "step": step.name,
            "config": step.config.model_dump(mode="json"),
            "train": self.recipe.config.train.decisive(),
            "instruction_sets": machine.here().instruction_sets,
            "code": self._code[step.uses] if step.uses is not None else None,
            "following": following.model_dump(mode="json") if following else None,
        }

    def _record(self, folder: Path, step: StepChoice) -> StepRecord:
        saved = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        checkpoint = folder.relative_to(self.store.root).as_posix()
        return StepRecord.model_validate(
            {**saved, "config": step.config.model_dump(mode="json"), "checkpoint": checkpoint}
        )

    @staticmethod
    def _write(
        out: Path, step: StepChoice, record: dict[str, Any], accuracy: tuple[float, float], seconds: float
    ) -> None:
        about = {"step": step.name, "record": record, "accuracy": accuracy, "seconds": round(seconds, 3)}
        write_atomic(out / _RECORD, json.dumps(about))


def has_openvino(plan: Plan) -> bool:
    """Whether its last step has a second form: a static `quantize`, which OpenVINO wants in 8 bits of its own."""
    last = plan.graph_steps[-1].config if plan.graph_steps else None
    return isinstance(last, QuantizeConfig) and last.mode == "static"


def _following(step: StepChoice, plan: Plan) -> Config | None:
    """The configuration of the step that must come after `step`."""
    return next((other.config for other in plan.steps if other.name in step.order.before), None)
