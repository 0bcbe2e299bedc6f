"""Two profiles side by side: each operator of the one with that of the other which computes the same.

Nothing is left out: what has no counterpart stands alone, so both columns add up to both runs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from headway.measure.origin import PRODUCTS
from headway.measure.profile import Layer, Profile

CONVERSIONS = frozenset({
    "Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Transpose",
})  # fmt: skip
"""Kinds that compute nothing of the model's: they bring values into another form or order."""


@dataclass(frozen=True)
class Row:
    """What computes the same in both; None where only one has it."""

    parent: Layer | None
    child: Layer | None

    @property
    def lost_ms(self) -> float:
        """What the child takes longer; negative where it is faster."""
        return (self.child.ms if self.child else 0.0) - (self.parent.ms if self.parent else 0.0)


def join(parent: Profile, child: Profile) -> tuple[Row, ...]:
    """Every operator of both, once: in the child's order, and then what only the parent has.

    Layers with weights find each other by name; where a runtime left no name, those that are left do by order, if there
    are as many on both sides. The rest goes by name alone, and conversions only by their whole name.
    """
    partners: dict[int, int] = {}  # of positions in the child
    for kind in (_is_product, _is_other, _is_conversion):
        theirs = [i for i, layer in enumerate(parent.layers) if kind(layer)]
        ours = [i for i, layer in enumerate(child.layers) if kind(layer)]
        partners |= _by_name(parent.layers, theirs, child.layers, ours)
        if kind is _is_product:
            left = [[i for i in theirs if i not in partners.values()], [i for i in ours if i not in partners]]
            if len(left[0]) == len(left[1]):
                partners |= dict(zip(left[1], left[0], strict=True))
    rows = [Row(parent.layers[partners[i]] if i in partners else None, layer) for i, layer in enumerate(child.layers)]
    taken = set(partners.values())
    return (*rows, *(Row(layer, None) for i, layer in enumerate(parent.layers) if i not in taken))


@dataclass(frozen=True)
class Line:
    """Some rows as one: kinds are "" where a side has none, `count` is of the child's operators, or of the parent's."""

    name: str
    parent: str
    parent_ms: float
    child: str
    child_ms: float
    count: int = 1


def condense(parent: Profile, child: Profile, most: int) -> tuple[Line, ...]:
    """The join for people: layers that found each other one by one, the rest by kind, and what the runtimes keep.

    The dearest come first. From the `most`-th on they are one line, so that both columns still add up to both runs.
    """
    lines, alone = [], dict[tuple[str, str], list[Row]]()
    for row in join(parent, child):
        if row.parent and row.child:
            name = (row.child.aliases or (row.child.name,))[0]
            lines.append(Line(name, row.parent.kind, row.parent.ms, row.child.kind, row.child.ms))
        else:
            kinds = (row.parent.kind if row.parent else "", row.child.kind if row.child else "")
            alone.setdefault(kinds, []).append(row)
    for (theirs, ours), rows in alone.items():
        lines.append(_sum("only in the " + ("variant" if ours else "parent"), theirs, ours, rows))
    lines.sort(key=lambda line: line.parent_ms + line.child_ms, reverse=True)
    if left := lines[most:]:
        rest = Line("the others", "", sum(x.parent_ms for x in left), "", sum(x.child_ms for x in left), len(left))
        lines = [*lines[:most], rest]
    return (*lines, Line("outside operators", "", parent.outside_ms, "", child.outside_ms))


def totals(profile: Profile) -> list[tuple[str, int, float]]:
    """Kind, number of operators and milliseconds, the dearest kind first; the last is what is outside operators."""
    kinds: dict[str, list[float]] = {}
    for layer in profile.layers:
        kinds.setdefault(layer.kind, []).append(layer.ms)
    found = [(kind, len(taken), sum(taken)) for kind, taken in kinds.items()]
    return [*sorted(found, key=lambda row: row[2], reverse=True), ("outside operators", 1, profile.outside_ms)]


def _sum(name: str, theirs: str, ours: str, rows: Sequence[Row]) -> Line:
    parent = sum(row.parent.ms for row in rows if row.parent)
    return Line(name, theirs, parent, ours, sum(row.child.ms for row in rows if row.child), len(rows))


def _by_name(theirs: Sequence[Layer], at: Sequence[int], ours: Sequence[Layer], of: Iterable[int]) -> dict[int, int]:
    """Pairs (position in `ours`, position in `theirs`) that share an alias, each position once."""
    known: dict[str, list[int]] = {}
    for i in at:
        for alias in theirs[i].aliases:
            known.setdefault(alias, []).append(i)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for i in of:
        layer = ours[i]
        names = layer.aliases if layer.kind not in CONVERSIONS else (layer.name,)
        free = (j for name in names for j in known.get(name, ()) if j not in taken)
        if (found := next(free, None)) is not None and _alike(theirs[found], layer):
            pairs[i] = found
            taken.add(found)
    return pairs


def _alike(one: Layer, other: Layer) -> bool:
    return one.kind == other.kind or one.kind not in CONVERSIONS


_is_product: Callable[[Layer], bool] = lambda layer: layer.kind in PRODUCTS  # noqa: E731
_is_conversion: Callable[[Layer], bool] = lambda layer: layer.kind in CONVERSIONS  # noqa: E731
_is_other: Callable[[Layer], bool] = lambda layer: layer.kind not in PRODUCTS | CONVERSIONS  # noqa: E731
