"""What every stage is: a strict declaration, a check at sealing time, and a function at serving time.

In YAML and in the manifest a stage is its name with its settings: `resize: {shorter: 256}`. A bare name takes every
default (`softmax`), and a bare value is the stage's first setting (`resize: 256`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from headway.core.config import UNKNOWN, Config, unknown_key
from headway.core.tensors import DYNAMIC, TensorSpec


@dataclass(frozen=True)
class Limits:
    """What one row from a client may cost.

    Attributes:
        max_pixels: width times height of a picture, before and after resizing.
        max_text_bytes: of one text in UTF-8.
    """

    max_pixels: int = 50_000_000
    max_text_bytes: int = 1 << 17


@dataclass(frozen=True)
class Kit:
    """What stages work with besides their own settings.

    Attributes:
        inputs: of the model, by name.
        outputs: of the model, by name.
        labels: of its classes, by index.
        folder: what files are relative to.
    """

    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    folder: Path = Path()
    limits: Limits = Limits()


@dataclass(frozen=True)
class Flow:
    """What one stage hands to the next, as far as it is known before there is any.

    Attributes:
        kind: what it is: see the table below.
        datatype: Open Inference Protocol name.
        shape: of all rows together, the rows first; -1 varies. Pictures are [rows, height, width, channels].
        shorter: the least that a picture's shorter side can be.
        classes: of a tensor of indices, how many there are to index, -1 where that varies; 0 for what is no index.
    """

    kind: Literal["encoded", "pictures", "tokens", "tensor", "fed", "answer"]
    datatype: str = "BYTES"
    shape: tuple[int, ...] = (DYNAMIC,)
    shorter: int = 1
    classes: int = 0

    def require(self, kind: str, remedy: str) -> None:
        """Raise `ValueError` where something else flows."""
        if self.kind != kind:
            raise ValueError(f"takes {_WORDS[kind]}, and gets {_WORDS[self.kind]}: {remedy}")


_WORDS = {
    "encoded": "bytes as they were sent",
    "pictures": "decoded pictures",
    "tokens": "token tensors",
    "tensor": "a tensor",
    "fed": "nothing: the model has it",
    "answer": "nothing: no output was taken",
}


class Stage(Config):
    """Base of every stage.

    Attributes:
        name: of the stage, as a declaration spells it.
        package: the distribution that it needs; "" for none.
        extra: the extra of `pip install 'headway[...]'` that brings it.
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, given: object) -> object:
        """The settings in `name`, `{name: settings}` and `{name: value}`; anything else as it is."""
        if given == cls.name:
            return {}
        if not isinstance(given, Mapping) or set(given) != {cls.name}:
            return given
        settings = given[cls.name]
        if settings is None:
            return {}
        if not isinstance(settings, Mapping):
            settings = {next(iter(cls.model_fields), "value"): settings}
        return settings

    @model_serializer(mode="wrap")
    def _wrap(self, settings: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {self.name: settings(self)}

    def __str__(self) -> str:
        settings = self.model_dump(exclude_defaults=True)[self.name]
        told = ", ".join(f"{key} {value}" for key, value in settings.items())
        return f"{self.name} ({told})" if told else self.name

    def check(self, given: Flow, kit: Kit) -> Flow:
        """What it gives for what it is given. Raises `ValueError`, whose text says what does not fit."""
        raise NotImplementedError

    def open(self, kit: Kit) -> Callable[[Any], Any]:
        """The function that does it to what flows, one row at a time before the model, all rows after it."""
        raise NotImplementedError


def known(kinds: Sequence[type[Stage]]) -> Callable[[object], object]:
    """A validator that refuses what names none of these stages, and says which is meant."""
    names = [kind.name for kind in kinds]

    def check(given: object) -> object:
        if (name := named(given)) not in names:
            hint = "must be one name with its settings" if name is None else unknown_key(name, names, "stage")
            raise PydanticCustomError(UNKNOWN, "{hint}", {"key": name or "", "hint": hint})
        return given

    return check


def named(given: object) -> str | None:
    """The name of the stage that a declaration means; None where it means none."""
    if isinstance(given, Stage):
        return given.name
    if isinstance(given, Mapping):
        given = next(iter(given)) if len(given) == 1 else None
    return given if isinstance(given, str) else None


def tuples(value: object) -> object:
    """The same data with tuples for lists: the manifest is read strictly, where a list is no tuple."""
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
