"""What the rules of `causes` look at: two joined profiles, and which of their operators are spoken for."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from headway.core.machine import Machine
from headway.measure.join import Row, join
from headway.measure.profile import Layer, Profile

_NAMED = 5  # operators or kinds, at most


class Cause(BaseModel):
    """One reason.

    Attributes:
        cause: its name.
        evidence: what was seen.
        remedy: what to try.
        operators: names of some that it speaks of, the dearest first.
        ms: what it costs in the child's run.
        share: of the child's run.
    """

    model_config = ConfigDict(frozen=True)

    cause: str
    evidence: str
    remedy: str
    operators: tuple[str, ...]
    ms: float
    share: float

    def document(self) -> dict[str, Any]:
        """As JSON has it, for `--json`."""
        found = self.model_dump(mode="json", exclude={"remedy"})
        return {**found, "try": self.remedy}


class Evidence:
    """What rules look at. A row that one rule has taken is gone for the next."""

    def __init__(self, parent: Profile, child: Profile, machine: Machine) -> None:
        self.parent, self.child, self.machine = parent, child, machine
        self.rows = join(parent, child)
        self._taken: set[str] = set()
        self._row = {row.child.name: row for row in self.rows if row.child}
        self.readers: dict[str, list[Layer]] = {}
        self.maker = {name: layer for layer in child.layers for name in layer.outputs if name}
        for layer in child.layers:
            for name in filter(None, layer.inputs):
                self.readers.setdefault(name, []).append(layer)

    def after(self, layer: Layer) -> list[Layer]:
        """What reads its outputs."""
        return [reader for name in layer.outputs for reader in self.readers.get(name, ())]

    def before(self, layer: Layer) -> list[Layer]:
        """What makes its inputs."""
        return [self.maker[name] for name in layer.inputs if name in self.maker]

    def alone(self, layer: Layer) -> bool:
        """Whether only the child has it."""
        return self._row[layer.name].parent is None

    def pick(self, wanted: Callable[[Layer], bool], *, gains: bool = False) -> list[Layer]:
        """The child's operators that no rule has taken and that lose time (or `gains` it), in their order."""
        rows = (row for row in self.rows if gains or row.lost_ms > 0)
        return [row.child for row in rows if row.child and row.child.name not in self._taken and wanted(row.child)]

    def cause(self, name: str, layers: Sequence[Layer], cost: Callable[[Row], float], say: str, remedy: str) -> Cause:
        """Take `layers`; `{ms}` and `{share}` in `say` are what they cost."""
        rows = sorted((self._row[layer.name] for layer in layers), key=cost, reverse=True)
        self._taken |= {layer.name for layer in layers}
        ms = sum(map(cost, rows))
        share = ms / self.child.ms
        return Cause(
            cause=name,
            evidence=say.replace("{ms}", f"{ms:.3f} ms").replace("{share}", f"{share:.0%} of the run"),
            remedy=remedy,
            operators=tuple(row.child.name for row in rows[:_NAMED] if row.child),
            ms=ms,
            share=share,
        )

    def partner(self, layer: Layer) -> Layer | None:
        """The parent's."""
        return self._row[layer.name].parent


def lost_ms(row: Row) -> float:
    """What the child takes longer; nothing where it is faster."""
    return max(0.0, row.lost_ms)


def lost(row: Row) -> str:
    """A row in words."""
    layer = row.child or row.parent
    name = f"{layer.kind} {layer.name}" if layer else ""
    if row.parent is None:
        return f"{name}: {row.lost_ms:.3f} ms, which the parent does not have"
    return f"{name}: {row.child.ms if row.child else 0:.3f} ms, where the parent takes {row.parent.ms:.3f} ms"


def counted(layers: Iterable[Layer]) -> str:
    """Kinds with their numbers, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(layer.kind for layer in layers).most_common(_NAMED))


def kinds(layers: Sequence[Layer], *, dearest: bool = False) -> str:
    """The first three of `counted`, or the three kinds that take most time."""
    counts = Counter(layer.kind for layer in layers)
    spent = {kind: sum(layer.ms if dearest else 1 for layer in layers if layer.kind == kind) for kind in counts}
    return ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts, key=spent.__getitem__, reverse=True)[:3])


def shape(layer: Layer) -> str:
    """Of the weights, in words."""
    return " x ".join(map(str, layer.weights))
