"""Machines that a model could run on: `machines.yaml`, and a user's own file of the same form."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from headway.core.config import Config, read_yaml, unknown_key, validate
from headway.core.errors import ConfigError
from headway.measure.count import Precision

MACHINES = Path(__file__).with_name("machines.yaml")
HERE = "here"
"""Name of an entry that tells what cannot be measured of the machine at hand: its watts and its price."""

Mark = Literal["measured", "vendor", "vendor, unchecked", "modelled"]


class Source(Config):
    """Where figures come from."""

    url: str = Field(pattern="^https://", description="The vendor's page or datasheet.")
    date: str = Field(description="When it was published, or the price held.")
    checked: bool = Field(False, description="Whether the figures were read there.")


class Figure(Config):
    """One figure, and between what it may lie."""

    value: float = Field(gt=0, description="What is reckoned with.")
    low: float | None = Field(None, gt=0, description="It may be as low as that; without, no lower.")
    high: float | None = Field(None, gt=0, description="It may be as high as that; without, no higher.")
    source: str = Field(description="Key of one of `sources`.")
    how: str = Field("", description="How it was derived or estimated; without, it is as the source has it.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.least <= self.value <= self.most:
            raise ValueError("low must not lie above value, nor high below it")
        return self

    @property
    def least(self) -> float:
        """`low`, or the value."""
        return self.value if self.low is None else self.low

    @property
    def most(self) -> float:
        """`high`, or the value."""
        return self.value if self.high is None else self.high


class Hardware(Config):
    """One machine, as a whole: what a run has when it has all of it."""

    name: str = Field(min_length=1, description="What it is shown as.")
    peak_tops: dict[Precision, Figure] = Field({}, description="10^12 dense operations a second, by precision.")
    bandwidth_gb_s: Figure | None = Field(None, description="Of its memory; none for one that keeps all on the chip.")
    link_gb_s: Figure | None = Field(None, description="From and to its host; none where they share memory.")
    operator_us: Figure | None = Field(None, description="That an operator takes at least, such as a kernel's launch.")
    memory_gb: Figure | None = Field(None, description="Of its memory; without, nobody checks whether a model fits.")
    watts: Figure | None = Field(None, description="At full load.")
    price_usd: Figure | None = Field(None, description="To buy it.")
    hourly_usd: Figure | None = Field(None, description="To rent it, energy and hosting included.")
    hosting_month_usd: Figure | None = Field(None, description="Room, network and care of a bought one.")
    note: str = Field("", description="What else to know.")

    @property
    def figures(self) -> dict[str, Figure]:
        """Every figure it has, by its name in the file."""
        peaks = {f"peak_tops.{precision}": figure for precision, figure in self.peak_tops.items()}
        rest = {name: getattr(self, name) for name in type(self).model_fields}
        return peaks | {name: figure for name, figure in rest.items() if isinstance(figure, Figure)}


class Catalogue(Config):
    """The whole file."""

    sources: dict[str, Source] = Field(description="By key.")
    hardware: tuple[Hardware, ...] = Field(description="The machines.")

    def mark(self, figure: Figure) -> Mark:
        """How a figure came."""
        if figure.how:
            return "modelled"
        return "vendor" if self.sources[figure.source].checked else "vendor, unchecked"


def load(own: Path | None = None) -> Catalogue:
    """The machines that come with Headway, and a user's: one of the same name replaces ours.

    Args:
        own: file of the form of `machines.yaml`; it may use our sources.

    Raises:
        ConfigError: it is wrong, at `file:line`.
    """
    ours = _read(MACHINES, {})
    if own is None:
        return ours
    theirs = _read(own, ours.sources)
    names = {each.name for each in theirs.hardware}
    kept = tuple(each for each in ours.hardware if each.name not in names)
    return Catalogue(sources={**ours.sources, **theirs.sources}, hardware=(*kept, *theirs.hardware))


def _read(path: Path, known: dict[str, Source]) -> Catalogue:
    data, source = read_yaml(path)
    found = validate(Catalogue, {"sources": {}, **data}, source)
    sources = {**known, **found.sources}
    seen: set[str] = set()
    for number, each in enumerate(found.hardware):
        if each.name in seen:
            raise ConfigError(f"{each.name!r} stands twice", where=source.place(("hardware", number, "name")))
        seen.add(each.name)
        if not each.peak_tops and each.name != HERE:
            raise ConfigError(f"{each.name!r} has no peak_tops", where=source.place(("hardware", number)))
        for name, figure in each.figures.items():
            if figure.source not in sources:
                where = source.place(("hardware", number, *name.split("."), "source"))
                raise ConfigError(unknown_key(figure.source, set(sources), "source"), where=where)
    return found
