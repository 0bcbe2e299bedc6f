"""Strict configuration: YAML whose mistakes are reported at `file:line`, with the nearest known key.

A component owns its configuration: it declares a subclass of `Config` beside its code, and every field carries a
`description`, from which `docs/recipe.md` is made.
"""

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from headway.core.errors import ConfigError

Place = tuple[str | int, ...]
_MAX_VALUES = 10_000  # a recipe is small, and YAML aliases can multiply without bound
_MAX_DEPTH = 50
_UNKNOWN, _NO_NUMBER = "unknown_key", "no_number"  # our own findings among pydantic's


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: object) -> object:
        if isinstance(data, Mapping):
            for key, value in data.items():
                if key not in cls.model_fields:
                    hint = unknown_key(key, set(cls.model_fields))
                    raise PydanticCustomError(_UNKNOWN, "{hint}", {"key": key, "hint": hint})
                if isinstance(value, bool) and _only_number(cls.model_fields[key].annotation):
                    hint = f"must be a number, got {str(value).lower()}"  # pydantic would read it as 0 or 1
                    raise PydanticCustomError(_NO_NUMBER, "{hint}", {"key": key, "hint": hint})
        return data


def _only_number(annotation: object) -> bool:
    kinds = {annotation, *get_args(annotation)}
    return bool(kinds & {int, float}) and bool not in kinds


def unknown_key(key: object, known: Sequence[str] | set[str]) -> str:
    """The message for a key nobody knows: the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {str(key)!r}; {hint}"


@dataclass
class Source:
    """Where each value of a configuration was written."""

    name: str
    lines: dict[Place, int] = field(default_factory=dict)
    overridden: dict[Place, str] = field(default_factory=dict)

    def place(self, path: Place) -> str:
        """`file:line` of the value at `path`, or of the nearest enclosing value that was written."""
        for depth in range(len(path), -1, -1):
            at = path[:depth]
            if at in self.overridden:
                return f"--set {self.overridden[at]}"
            if at in self.lines:
                return f"{self.name}:{self.lines[at]}"
        return self.name


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with YAML 1.2's scalars: `1e-3` is a number, and `no`, `on` and their like are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Source]:
    """Read a YAML mapping and remember the line of every value.

    Args:
        path: the file.
        overrides: `a.b.c=value` texts, each value read as YAML; they win over the file.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, not a mapping, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=str(path), remedy="Check the path.") from error
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"cannot be read as text: {error}", where=str(path)) from error
    source = Source(str(path))
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        data = _construct(loader, node, (), source, [0]) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"not valid YAML: {error.problem}", where=where) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from error
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise ConfigError("the file must be a mapping of keys to values", where=str(path))
    for override in overrides:
        _override(data, override, source)
    return data, source


def _construct(loader: _Loader, node: yaml.Node, path: Place, source: Source, count: list[int]) -> Any:
    count[0] += 1
    if count[0] > _MAX_VALUES or len(path) > _MAX_DEPTH:
        raise ConfigError(
            f"more than {_MAX_VALUES} values or {_MAX_DEPTH} levels; are aliases (*name) multiplying?",
            where=f"{source.name}:{node.start_mark.line + 1}",
        )
    where = f"{source.name}:{node.start_mark.line + 1}"
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise ConfigError(f"the tag {node.tag!r} is not allowed: a recipe is plain data", where=where)
    source.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"key {key!r} must be text; put it in quotes", where=f"{source.name}:{line}")
            if key in mapping:
                raise ConfigError(f"key {key!r} stands twice", where=f"{source.name}:{line}")
            source.lines[(*path, key)] = line
            mapping[key] = _construct(loader, value_node, (*path, key), source, count)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, i), source, count) for i, item in enumerate(node.value)]
    return loader.construct_object(node)


def _override(data: dict[str, Any], text: str, source: Source) -> None:
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError("not of the form key.key=value", where=f"--set {text}")
    place: Place = ()
    target: Any = data
    for depth, name in enumerate(names):
        step: str | int = int(name) if isinstance(target, list) and name.isdigit() else name
        place = (*place, step)
        if isinstance(target, list) and not (isinstance(step, int) and step < len(target)):
            raise ConfigError(f"no item {name!r} in a list of {len(target)}", where=f"--set {text}")
        if depth == len(names) - 1:
            try:
                target[step] = yaml.load(value, Loader=_Loader)  # noqa: S506  (a SafeLoader)
            except yaml.YAMLError as error:
                raise ConfigError(f"the value is not valid YAML: {error}", where=f"--set {text}") from error
            source.overridden[place] = text
            return
        if isinstance(target, dict):
            target.setdefault(name, {})
        target = target[step]
        if not isinstance(target, dict | list):
            raise ConfigError(f"{'.'.join(names[: depth + 1])} holds a value, not keys", where=f"--set {text}")


C = TypeVar("C", bound=BaseModel)


def validate(model: type[C], data: object, source: Source, prefix: Place = ()) -> C:
    """Validate `data`, found at `prefix` of `source`, against `model`.

    Raises:
        ConfigError: naming every mistake, each at its own `file:line`.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        mistakes = [_mistake(detail, source, prefix) for detail in error.errors()]
    first, *more = mistakes
    message = "".join([first[1], *(f"\n{where}: {text}" for where, text in more)])
    raise ConfigError(message, where=first[0])


def _mistake(detail: ErrorDetails, source: Source, prefix: Place) -> tuple[str, str]:
    """(`file:line`, message) of one of pydantic's findings."""
    path: Place = (*prefix, *detail["loc"])
    context = detail.get("ctx") or {}
    if detail["type"] in (_UNKNOWN, _NO_NUMBER):
        path = (*path, context["key"])
        at = path[:-1] if detail["type"] == _UNKNOWN else path
        name, text = ".".join(map(str, at)), context["hint"]
    else:
        name, text = ".".join(map(str, path)), detail["msg"]
        given = detail["input"]
        if detail["type"] != "missing" and isinstance(given, str | int | float | bool):
            text += f", got {given!r}"
    return source.place(path), f"{name}: {text}" if name else text
