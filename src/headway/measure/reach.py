"""How near each operator of a profile comes to the machine's roofline."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from headway.measure.count import Work
from headway.measure.profile import Layer, Profile
from headway.measure.roofline import CACHE, Bound, Roofline, bound


class Reach(BaseModel):
    """What some operators reached together.

    Attributes:
        name: of the operator, or of their sum.
        kind: such as `Conv`.
        ms: that they took.
        operations: of the kinds that are known.
        bytes: that they moved.
        least: what the roofline allows at least, their parts added.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    ms: float
    operations: int
    bytes: int
    least: Bound

    @property
    def of_roofline(self) -> float | None:
        """The roofline's time over the time taken: 1 is all that the machine can do; None for no time at all."""
        return self.least.seconds * 1000 / self.ms if self.ms > 0 else None

    def document(self) -> dict[str, Any]:
        """As JSON has it: rates are a second's."""
        seconds = self.ms / 1000
        return {
            "operations": self.operations,
            "bytes": self.bytes,
            "operations_per_s": self.operations / seconds if seconds else None,
            "bytes_per_s": self.bytes / seconds if seconds else None,
            "intensity": self.operations / self.bytes if self.bytes else None,
            "bound": self.least.by,
            "of_roofline": self.of_roofline,
        }


class Reached(BaseModel):
    """A profile against a roofline.

    Attributes:
        each: its operators, in their order.
        whole: their sum, with the time of the whole run.
        unknown: kinds whose operations nobody counts: only their bytes are in the sums.
        roofline: the machine's.
    """

    model_config = ConfigDict(frozen=True)

    each: tuple[Reach, ...]
    whole: Reach
    unknown: tuple[str, ...]
    roofline: Roofline

    def document(self) -> dict[str, Any]:
        """As JSON has it, without the single operators."""
        return {
            "whole": self.whole.document(),
            "uncounted": list(self.unknown),
            "machine": self.roofline.model_dump(mode="json"),
        }


def reach(found: Profile, roof: Roofline) -> Reached:
    """Hold every operator of a profile against the roofline of the machine it ran on."""
    works = counted(found)
    resident = fits_cache(works)
    each = []
    for layer, work in zip(found.layers, works, strict=True):
        least = bound(work, roof.peak, roof.bandwidth, roof.cached, resident=resident)
        each.append(_reach(layer, work, least))
    sums = Bound(compute=sum(it.least.compute for it in each), memory=sum(it.least.memory for it in each))
    whole = Reach(
        name="the whole run",
        kind="",
        ms=found.ms,
        operations=sum(it.operations for it in each),
        bytes=sum(it.bytes for it in each),
        least=sums,
    )
    return Reached(each=tuple(each), whole=whole, unknown=uncounted(found), roofline=roof)


def counted(found: Profile) -> tuple[Work, ...]:
    """The work of each operator, in their order; nothing where none was counted."""
    none = Work(operations=None, precision="fp32", weight_bytes=0, read_bytes=0, written_bytes=0)
    return tuple(layer.work or none for layer in found.layers)


def uncounted(found: Profile) -> tuple[str, ...]:
    """Kinds of which only the bytes are known."""
    return tuple(sorted({layer.kind for layer in found.layers if layer.work is None or layer.work.operations is None}))


def fits_cache(works: Sequence[Work]) -> bool:
    """Whether a model's weights are few enough to stay in a cache from run to run."""
    return sum(work.weight_bytes for work in works) <= CACHE


def _reach(layer: Layer, work: Work, least: Bound) -> Reach:
    return Reach(
        name=layer.name,
        kind=layer.kind,
        ms=layer.ms,
        operations=work.operations or 0,
        bytes=work.bytes,
        least=least,
    )
