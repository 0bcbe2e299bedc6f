"""What a load call asks for: which versions of a model, in which variant, or a sealed bundle that comes with the call.

Source: Triton `docs/protocol/extension_model_repository.md`. Of a model configuration only what selects is taken. A
caller names versions and aliases, never a path: the server looks where it was told to when it was started, or in the
registry.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from headway.bundles.manifest import Name, Version
from headway.core.config import Config, Source, validate
from headway.core.errors import ConfigError, RequestError
from headway.serve.fields import RequestLimits
from headway.serve.json_body import json_object

_FILE = re.compile(r"file:([1-9][0-9]{0,8})/model\.hw")
_PIECE = 1 << 20  # of base64, decoded at a time: the interpreter is held meanwhile
_MAX_CONFIG_BYTES = 1 << 16


class Latest(Config):
    """The highest versions."""

    num_versions: int = Field(1, ge=1, le=1000)


class All(Config):
    """Every version."""


class Specific(Config):
    """These versions."""

    versions: tuple[Annotated[int, Field(ge=1, lt=10**9)], ...] = Field(min_length=1, max_length=1000)


class VersionPolicy(Config):
    """Which of a model's versions are served, as Triton's `ModelVersionPolicy` has it: one of the three."""

    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None

    @model_validator(mode="after")
    def _one(self) -> "VersionPolicy":
        if len(self.model_fields_set) != 1:
            raise ValueError("one of latest, all and specific")
        return self


class Selection(Config):
    """Versions and variant to serve; without any, what the model's source holds now."""

    version: Version | None = Field(None, description="A version in the registry.")
    alias: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] | None = Field(
        None, description="An alias in the registry."
    )
    version_policy: VersionPolicy | None = Field(None, description="Several versions in the registry.")
    variant: Name | None = Field(None, description="Id of the variant; without it, the best one here is chosen.")

    @model_validator(mode="after")
    def _at_most_one(self) -> "Selection":
        if sum(given is not None for given in (self.version, self.alias, self.version_policy)) > 1:
            raise ValueError("only one of version, alias and version_policy")
        return self

    @property
    def of_the_registry(self) -> bool:
        """Whether it names versions."""
        return not (self.version is None and self.alias is None and self.version_policy is None)

    def references(self, name: str) -> tuple[str, ...]:
        """The registry references of what is named one by one."""
        if self.version is not None:
            return (f"{name}:{self.version}",)
        if self.alias is not None:
            return (f"{name}@{self.alias}",)
        specific = self.version_policy.specific if self.version_policy else None
        return tuple(f"{name}:{number}" for number in dict.fromkeys(specific.versions)) if specific else ()

    def newest(self, most: int) -> int:
        """How many of the highest versions are wanted beside those; where all are, one more than `most`."""
        policy = self.version_policy
        if policy is None or policy.specific is not None:
            return 0
        return policy.latest.num_versions if policy.latest is not None else most + 1


EVERYTHING = Selection()


class Archive:
    """A `.hw` archive that came with a call.

    Args:
        version: that the caller says it has.
        content: its bytes, or their base64.
    """

    def __init__(self, version: str, content: bytes | str) -> None:
        self.version = version
        self._content = content

    def write(self, path: Path) -> None:
        """Write it to a file. Raises `RequestError` where it is not base64."""
        if isinstance(self._content, bytes):
            path.write_bytes(self._content)
            return
        try:
            with path.open("wb") as file:
                for start in range(0, len(self._content), _PIECE):
                    file.write(base64.b64decode(self._content[start : start + _PIECE], validate=True))
        except (binascii.Error, ValueError):
            raise RequestError("the file is not base64") from None


def read_load(parameters: Mapping[str, object]) -> tuple[Selection, Archive | None]:
    """The parameters of a load call.

    Raises:
        RequestError: naming what is not taken.
    """
    selection, archive = EVERYTHING, None
    for name, value in parameters.items():
        if name == "config":
            selection = _config(value)
        elif name.startswith("file:"):
            match = _FILE.fullmatch(name)
            if archive is not None or match is None or not isinstance(value, bytes | str):
                raise RequestError(
                    f"{name[:100]!r}: only sealed bundles are taken",
                    remedy="Send one .hw archive as the parameter 'file:VERSION/model.hw'.",
                )
            archive = Archive(match[1], value)
        else:
            raise RequestError(f"no parameter is called {name[:100]!r}", remedy="Known: config, file:VERSION/model.hw.")
    if archive is not None and selection.of_the_registry:
        raise RequestError("a file and a version of the registry exclude each other")
    return selection, archive


def check_unload(parameters: Mapping[str, object]) -> None:
    """Check the parameters of an unload call. No model depends on another, so `unload_dependents` changes nothing."""
    for name, value in parameters.items():
        if name != "unload_dependents" or not isinstance(value, bool):
            raise RequestError(f"{name[:100]!r} is not taken", remedy="Known: unload_dependents, true or false.")


def _config(value: object) -> Selection:
    if not isinstance(value, str):
        raise RequestError("must be JSON in a string", where="config")
    document = json_object(value.encode("utf-8", "surrogatepass"), RequestLimits(json_bytes=_MAX_CONFIG_BYTES))
    try:
        return validate(Selection, document, Source("config"))
    except ConfigError as error:
        raise RequestError(error.message, where=error.where) from None
