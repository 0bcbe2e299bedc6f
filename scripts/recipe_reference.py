"""Writes docs/recipe.md from the descriptions that the configuration's own fields carry."""

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from headway.compress.searchable import domains
from headway.core import plugins
from headway.core.config import Config
from headway.processing.declaration import INPUT_STAGES, OUTPUT_STAGES
from headway.shipping.processing import Declared
from headway.shipping.recipe import AutoConfig, ModelRef, RecipeConfig, Target, TaskRef
from headway.train.config import TrainConfig

TARGET = Path(__file__).parents[1] / "docs" / "recipe.md"
HEAD = """# The recipe

Made by `make docs` from the configuration itself. A recipe is one YAML file:

```yaml
{example}```

An unknown key is an error that names the line and the nearest known key. Any value can be set on the command line, with
`--set train.epochs=2` or `--set steps.0.prune.keep=0.7`. Relative paths start from the recipe's folder.
"""

PROCESSING = """
What follows is also the form of the file that `headway pack --processing` takes; [Processing](processing.md) shows
it at work.
"""


def kind(annotation: Any) -> str:
    """A field's type as a reader would say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else kind(part) for part in inner)
    if origin in (tuple, list):
        return f"list of {kind(inner[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    if hasattr(annotation, "__metadata__"):
        return kind(annotation.__origin__)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return names.get(annotation, "see below")


def default(field: Any) -> str:
    """A field's default as YAML would have it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Config):
        return "see below"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def section(title: str, model: type[Config]) -> Iterator[str]:
    """One table of keys."""
    yield f"\n## {title}\n\n{inspect.cleandoc(model.__doc__ or '')}\n"
    if model.model_fields:
        yield "\n| key | is | default | means |\n|---|---|---|---|\n"
    searched = domains(model)
    for name, field in model.model_fields.items():
        means = f"{field.description or ''}{f' *Searched: {searched[name]}.*' if name in searched else ''}"
        yield f"| `{name}` | {kind(field.annotation)} | {default(field)} | {means} |\n"


def nested(model: type[Config]) -> Iterator[tuple[str, type[Config]]]:
    """The mappings among a step's keys, with their own types."""
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Config):
                yield name, part


def reference() -> str:
    """The whole page."""
    example = (TARGET.parents[1] / "examples" / "digits.yaml").read_text(encoding="utf-8")
    parts = [HEAD.format(example=example), *section("Top level", RecipeConfig)]
    for title, model in {"task": TaskRef, "model": ModelRef, "train": TrainConfig, "target": Target}.items():
        parts += section(f"`{title}`", model)
        for key, inner in nested(model):
            parts += section(f"`{title}.{key}`", inner)
    parts += section("`steps: auto`", AutoConfig)
    for name in plugins.names("headway.steps"):
        config = plugins.load("headway.steps", name).Config
        parts += section(f"Step `{name}`", config)
        for key, inner in nested(config):
            parts += section(f"Step `{name}`, key `{key}`", inner)
    parts += [PROCESSING, *section("`processing`", Declared)]
    for stage in (*INPUT_STAGES, *OUTPUT_STAGES):
        parts += section(f"Stage `{stage.name}`", stage)
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"wrote {TARGET}")
