"""The recipe: the YAML file a user writes, and `headway.Recipe`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from headway.bundles.manifest import Contract, Name
from headway.compress.step import Order
from headway.core import plugins
from headway.core.config import Config, Source, read_yaml, unknown_key, validate
from headway.core.errors import ConfigError
from headway.core.files import is_file
from headway.shipping.processing import Declaration
from headway.train.config import TrainConfig


class TaskRef(Config):
    """Which task, and what it is called with."""

    use: str = Field(description="`package.module:function`, or `path/to/file.py:function` beside the recipe.")
    args: dict[str, Any] = Field({}, description="Keyword arguments of that function.")


class ModelRef(Config):
    """A model that is trained already; `train` is then only used for fine-tuning."""

    weights: Path | None = Field(None, description="Safetensors file for the task's model factory.")
    onnx: Path | None = Field(None, description="ONNX file; only steps that work on a graph can be taken.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.weights is None) == (self.onnx is None):
            raise ValueError("give either `weights` or `onnx`")
        return self


class Target(Config):
    """What a variant must keep to be shipped."""

    devices: tuple[Literal["cpu"], ...] = Field(("cpu",), min_length=1, description="Where the bundle is to run.")
    runtimes: tuple[str, ...] = Field(
        (),
        description="What variants are tried on; by default everything that is installed and works on the devices. "
        "Where `openvino` is named, a static `quantize` is also made in its own 8 bits, by NNCF (430 MB).",
    )
    keep_accuracy: float = Field(
        0.99, gt=0, le=1.5, description="Share of the original's metric on test data that must be proven to be kept."
    )
    p99_ms: float | None = Field(None, gt=0, description="Bound of the 99th percentile of latency at batch 1.")
    max_size_mb: float | None = Field(None, gt=0, description="Bound of the model files, in units of 10^6 bytes.")
    confidence: float = Field(
        0.95, gt=0.5, le=0.9999, description="That nothing worse ships; shared out over the variants that are tried."
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads a run, for the original and every variant alike.")
    seconds: float = Field(10, gt=0, description="Time for measuring latency, once every variant has 100 rounds.")

    def contract(self) -> Contract:
        """What goes into the manifest."""
        return Contract(
            keep_accuracy=self.keep_accuracy,
            p99_ms=self.p99_ms,
            max_size_mb=self.max_size_mb,
            confidence=self.confidence,
            devices=self.devices,
            threads=self.threads,
        )


class AutoConfig(Config):
    """Which steps are taken, and with which settings, is searched for: `steps: auto`, or `steps: {auto: {...}}`.

    Candidates are judged on the selection part; the best few then go through the gate on test data, as ever. The same
    search again takes what it found from the cache, and one that was interrupted, or has more minutes now, goes on.
    """

    minutes: float = Field(
        30, gt=0, le=100_000, description="Time for building and measuring candidates; training the model comes before."
    )
    trials: int | None = Field(None, ge=1, description="Most candidates that are looked at; null: as time allows.")
    allow: tuple[str, ...] | None = Field(
        None, min_length=1, description="Steps that may be taken; null: every step that says what may be searched."
    )
    finalists: int = Field(
        4, ge=1, le=20, description="Candidates that go to the gate at most; they share the target's confidence."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of what is tried.")


class RecipeConfig(Config):
    """The whole file."""

    name: Name = Field(description="Of the bundle, and so of the served model.")
    task: TaskRef = Field(description="Data, metric and model factory.")
    model: ModelRef | None = Field(None, description="A model that is trained already.")
    train: TrainConfig = Field(TrainConfig(), description="How the model is trained, and fine-tuned after pruning.")
    steps: tuple[str | dict[str, dict[str, Any] | None], ...] = Field(
        (),
        max_length=4,
        description="What is done to the model; every combination in this order becomes a variant. `auto`: see below.",
    )
    target: Target = Field(Target(), description="What a variant must keep.")
    processing: str | dict[str, Any] | None = Field(
        None, description="What is done between a client and the model: a YAML file, or the same keys here; see below."
    )


@dataclass(frozen=True)
class StepChoice:
    """A step of the recipe, with its validated configuration.

    Attributes:
        order: what may come before and after it.
        base: the recipe's folder.
    """

    name: str
    stage: Literal["module", "graph"]
    config: Config
    order: Order
    base: Path

    @classmethod
    def of(cls, name: str, config: Config, base: Path) -> Self:
        """The step called `name`, with its validated configuration."""
        kind = plugins.load("headway.steps", name)
        order = kind.order(config) if hasattr(kind, "order") else Order()
        return cls(name, kind.stage, config, order, base)

    def make(self) -> Any:
        """The step itself: a `ModuleStep` or `GraphStep`, as `stage` says."""
        kind = plugins.load("headway.steps", self.name)
        return kind(self.config, self.base) if hasattr(kind, "code") else kind(self.config)

    @property
    def uses(self) -> str | None:
        """The user's function that it runs, in the form of `task.use`; None where it runs none."""
        key = getattr(plugins.load("headway.steps", self.name), "code", None)
        return getattr(self.config, key) if key else None


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Attributes:
        config: the file's content.
        steps: its steps; none where they are searched for.
        base: the folder that relative paths start from.
        processing: what is done between a client and the model.
        auto: how steps are searched for; None where the recipe names them.
    """

    config: RecipeConfig
    steps: tuple[StepChoice, ...]
    base: Path
    processing: Declaration | None = None
    auto: AutoConfig | None = None

    @classmethod
    def load(cls, path: Path | str, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe.

        Args:
            path: the YAML file.
            overrides: `key.key=value` texts that win over the file.

        Raises:
            ConfigError: with `file:line` of every mistake.
        """
        path = Path(path)
        data, source = read_yaml(path, overrides)
        auto = _auto(data, source)
        config = validate(RecipeConfig, data, source)
        base = path.resolve().parent
        steps = tuple(_step(item, source, i, base) for i, item in enumerate(config.steps))
        check_order(config, steps, source)
        recipe = cls(config, steps, base, _processing(config.processing, source, base), auto)
        for place, file in (("weights", recipe.weights), ("onnx", recipe.onnx)):
            if file is not None and not is_file(file):
                raise ConfigError(f"model.{place}: no such file: {file}", where=source.place(("model", place)))
        return recipe

    @property
    def weights(self) -> Path | None:
        """The safetensors file of a trained model."""
        return self._file(self.config.model.weights if self.config.model else None)

    @property
    def onnx(self) -> Path | None:
        """The ONNX file of a trained model."""
        return self._file(self.config.model.onnx if self.config.model else None)

    def _file(self, path: Path | None) -> Path | None:
        return self.base / path if path is not None else None


def _step(item: str | dict[str, Any], source: Source, index: int, base: Path) -> StepChoice:
    place = ("steps", index)
    settings = {item: None} if isinstance(item, str) else item
    if len(settings) != 1:
        raise ConfigError(
            f"a step is one name with its settings, got {sorted(settings)}",
            where=source.place(place),
            remedy="Start each step with its own dash.",
        )
    name, values = next(iter(settings.items()))
    known = plugins.names("headway.steps")
    if name not in known:
        raise ConfigError(f"steps.{index}: {unknown_key(name, set(known))}", where=source.place((*place, name)))
    kind = plugins.load("headway.steps", name)
    config = validate(kind.Config, values or {}, source, (*place, name))
    return StepChoice.of(name, config, base)


def _auto(data: dict[str, Any], source: Source) -> AutoConfig | None:
    """What `steps: auto` asks for, which is taken out of `data`; None where steps are named, or nothing is said."""
    asked = data.get("steps")
    if asked == "auto":
        asked = {"auto": None}
    if not isinstance(asked, dict) or list(asked) != ["auto"]:
        return None
    del data["steps"]
    place = ("steps", "auto")
    auto = validate(AutoConfig, asked["auto"] or {}, source, place)
    known = set(plugins.names("headway.steps"))
    for i, name in enumerate(auto.allow or ()):
        if name not in known:
            message = f"steps.auto.allow.{i}: {unknown_key(name, known, 'step')}"
            raise ConfigError(message, where=source.place((*place, "allow", i)))
    return auto


def _processing(given: str | dict[str, Any] | None, source: Source, base: Path) -> Declaration | None:
    if isinstance(given, str):
        if not is_file(base / given):
            raise ConfigError(f"processing: no such file: {base / given}", where=source.place(("processing",)))
        return Declaration.load(base / given)
    return Declaration.of(given, source, base, ("processing",)) if given is not None else None


def check_order(config: RecipeConfig, steps: Sequence[StepChoice], source: Source) -> None:
    """Refuse, before any work, an order of steps that cannot be carried out.

    Raises:
        ConfigError: with the reason, and the step's place in `source`.
    """
    graph = ""
    for i, step in enumerate(steps):
        where = source.place(("steps", i))
        if step.stage == "module" and graph:
            raise ConfigError(
                f"{step.name} changes the torch module, which {graph} before it has already turned into a graph",
                where=where,
                remedy=f"Put {step.name} before {graph}.",
            )
        if step.stage == "module" and config.model is not None and config.model.onnx is not None:
            raise ConfigError(
                f"{step.name} needs a torch module, and model.onnx is a graph",
                where=where,
                remedy="Leave the step out, or bring the model as `model: {weights: ...}` with a model factory.",
            )
        if step.name in [s.name for s in steps[:i]]:
            raise ConfigError(f"{step.name} stands twice", where=where)
        _check_neighbours(step, steps[:i], steps[i + 1 :], where)
        graph = step.name if step.stage == "graph" else graph


def _check_neighbours(step: StepChoice, earlier: Sequence[StepChoice], later: Sequence[StepChoice], where: str) -> None:
    """Hold a step to what it says of the steps before and after it."""
    for name, why in step.order.after.items():
        if name not in [other.name for other in earlier]:
            raise ConfigError(
                f"{step.name} must come after {name}: {why}", where=where, remedy=f"Put {name} before {step.name}."
            )
    for other in earlier:
        if other.name in step.order.not_after:
            raise ConfigError(
                f"{step.name} may not come after {other.name}: {step.order.not_after[other.name]}",
                where=where,
                remedy=f"Put {step.name} before {other.name}, or leave one of them out.",
            )
    for name, why in step.order.before.items():
        following = next((other for other in later if other.name == name), None)
        if following is None:
            raise ConfigError(
                f"{step.name} must come before {name}: {why}", where=where, remedy=f"Add {name} after {step.name}."
            )
        kind = plugins.load("headway.steps", step.name)
        if reason := getattr(kind, "refuses", lambda config: "")(following.config):
            raise ConfigError(f"{step.name} does not fit its {name}: {reason}", where=where)
