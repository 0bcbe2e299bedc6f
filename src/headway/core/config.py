"""Strict configuration: YAML whose mistakes are reported at `file:line`, with the nearest known key.

A component owns its configuration: it declares a subclass of `Config` beside its code, and every field carries a
`description`, from which `docs/recipe.md` is made.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
_MAX_INTEGER = 2**63 - 1
UNKNOWN, _NO_NUMBER = "unknown_key", "no_number"  # our own findings among pydantic's


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: object) -> object:
        if isinstance(data, Mapping):
            for key, value in data.items():
                if key not in cls.model_fields:
                    hint = unknown_key(key, set(cls.model_fields))
                    raise PydanticCustomError(UNKNOWN, "{hint}", {"key": key, "hint": hint})
                if isinstance(value, bool) and _only_number(cls.model_fields[key].annotation):
                    hint = f"must be a number, got {str(value).lower()}"  # pydantic would read it as 0 or 1
                    raise PydanticCustomError(_NO_NUMBER, "{hint}", {"key": key, "hint": hint})
        return data


def _only_number(annotation: object) -> bool:
    kinds = {annotation, *get_args(annotation)}
    return bool(kinds & {int, float}) and bool not in kinds


def unknown_key(key: object, known: Sequence[str] | set[str], what: str = "key") -> str:
    """The message for a key (or a `what`) nobody knows: the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known {what}s: {', '.join(sorted(known))}"
    return f"unknown {what} {str(key)!r}; {hint}"


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
    """YAML's safe loader with YAML 1.2's scalars: `1e-3` is a number; `no`, `2020-01-01` and `1:30` are text."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|false)$", list("tf")),
    ("int", r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]+|0|[1-9][0-9_]*)$", list("-+0123456789")),
    (
        "float",
        (
            r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)

_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Source]:
    """Read a YAML mapping and remember the line of every value.

    Args:
        path: the file.
        overrides: `a.b.c=value` texts, each value read as YAML; they win over the file.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, not YAML, not a mapping, repeats a key, or holds a number
            that is not finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=str(path), remedy="Check the path.") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a NUL byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot be read as text: {reason}", where=str(path)) from error
    source = Source(str(path))
    document = _Document(lambda line: f"{path}:{line}", source.lines)
    data = document.read(text, empty={})
    if not isinstance(data, dict):
        raise ConfigError("the file must be a mapping of keys to values", where=str(path))
    apply(overrides, data, source)
    return data, source


def apply(overrides: Sequence[str], data: dict[str, Any], source: Source) -> None:
    """Set `a.b.c=value` texts in `data`, each value read as YAML. Raises `ConfigError`."""
    for override in overrides:
        _override(data, override, source)


@dataclass
class _Document:
    """Reads one YAML text as plain data.

    Attributes:
        where: what a message calls a line.
        lines: filled with the line of every value.
    """

    where: Callable[[int], str]
    lines: dict[Place, int] = field(default_factory=dict)
    count: int = 0

    def read(self, text: str, empty: object = None) -> Any:
        """The value that `text` holds, or `empty`."""
        try:
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
                return self._value(loader, node, ()) if node is not None else empty
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise ConfigError(
                f"not valid YAML: {error.problem}", where=self.where(mark.line + 1 if mark else 1)
            ) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError(
                f"not valid YAML: the character {chr(error.character)!r}", where=self.where(line)
            ) from error
        except RecursionError as error:
            raise ConfigError(f"more than {_MAX_DEPTH} levels of nesting", where=self.where(1)) from error

    def _value(self, loader: _Loader, node: yaml.Node, path: Place) -> Any:
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise ConfigError(
                f"more than {_MAX_VALUES} values or {_MAX_DEPTH} levels; are aliases (*name) multiplying?",
                where=self.where(line),
            )
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node)
            return self._mapping(loader, node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node)
            return [self._value(loader, item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(loader, node)

    def _mapping(self, loader: _Loader, node: yaml.MappingNode, path: Place) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(loader, key_node) if isinstance(key_node, yaml.ScalarNode) else key_node.value
            if not isinstance(key, str):
                shown = repr(key) if isinstance(key_node, yaml.ScalarNode) else "of several values"
                raise ConfigError(f"key {shown} must be text; put it in quotes", where=self.where(line))
            if key == "<<" and key_node.style is None:
                raise ConfigError("merge keys (<<) are not supported; write the values out", where=self.where(line))
            if key in mapping:
                raise ConfigError(f"key {key!r} stands twice", where=self.where(line))
            self.lines[(*path, key)] = line
            mapping[key] = self._value(loader, value_node, (*path, key))
        return mapping

    def _scalar(self, loader: _Loader, node: yaml.Node) -> Any:
        self._check_tag(node)
        where = self.where(node.start_mark.line + 1)
        try:
            value = loader.construct_object(node)
        except (ValueError, LookupError, OverflowError) as error:  # `!!int x`, or too many digits for an integer
            raise ConfigError(f"cannot be read as {node.tag.rpartition(':')[2]}: {error}", where=where) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{node.value} is not a finite number", where=where)
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            raise ConfigError("an integer of more than 64 bits", where=where)
        return value

    def _check_tag(self, node: yaml.Node) -> None:
        if node.tag not in _PLAIN:
            where = self.where(node.start_mark.line + 1)
            raise ConfigError(f"the tag {node.tag!r} is not allowed: a recipe is plain data", where=where)


def _override(data: dict[str, Any], text: str, source: Source) -> None:
    where = f"--set {text}"
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError("not of the form key.key=value", where=where)
    place: Place = ()
    target: Any = data
    for depth, name in enumerate(names):
        step: str | int = int(name) if isinstance(target, list) and _is_index(name) else name
        place = (*place, step)
        if isinstance(target, list) and not (isinstance(step, int) and step < len(target)):
            raise ConfigError(f"no item {name!r} in a list of {len(target)}", where=where)
        if depth == len(names) - 1:
            target[step] = _Document(lambda line: where).read(value)
            source.overridden[place] = text
            return
        reached = ".".join(names[: depth + 1])
        if isinstance(target, dict) and name not in target:
            if _is_index(names[depth + 1]):
                remedy = f"Set the whole list: --set '{reached}=[...]'"
                raise ConfigError(
                    f"there is no list {reached!r} to have item {names[depth + 1]}", where=where, remedy=remedy
                )
            target[name] = {}
        target = target[step]
        if not isinstance(target, dict | list):
            raise ConfigError(f"{reached} holds a value, not keys", where=where)


def _is_index(name: str) -> bool:
    return name.isdecimal() and len(name) <= len(str(_MAX_VALUES))


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
    if detail["type"] in (UNKNOWN, _NO_NUMBER):
        path = (*path, context["key"])
        at = path[:-1] if detail["type"] == UNKNOWN else path
        name, text = ".".join(map(str, at)), context["hint"]
    else:
        name, text = ".".join(map(str, path)), detail["msg"]
        given = detail["input"]
        if detail["type"] != "missing" and isinstance(given, str | int | float | bool):
            text += f", got {given!r}"
    return source.place(path), f"{name}: {text}" if name else text
