"""Two joined profiles as HTML: causes, a bar for each layer, and how it was measured."""

from importlib.resources import files

from headway.measure.causes import Comparison
from headway.measure.join import condense
from headway.measure.reach import Reached

_LINES = 20
_BAR = 256.0  # pixels of the longest


def joined(comparison: Comparison, parent: str, child: str) -> str:
    """The piece that `report.html` holds for each variant that is not faster.

    Args:
        comparison: what was found.
        parent: what the left side is called.
        child: what the right side is called.
    """
    from jinja2 import Environment

    template = files("headway.shipping").joinpath("joined.html.j2").read_text(encoding="utf-8")
    lines = condense(comparison.parent, comparison.child, _LINES)
    longest = max(1e-9, *(max(line.parent_ms, line.child_ms) for line in lines))
    piece = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return piece.render(comparison=comparison, parent=parent, child=child, lines=lines, scale=_BAR / longest)


def page(comparison: Comparison | None, found: Reached, parent: str, child: str) -> str:
    """The same, where there is a parent, as a page that opens offline, and the child against the machine's roofline."""
    from jinja2 import Environment

    folder = files("headway.shipping")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    dearest = sorted(found.each, key=lambda it: it.ms, reverse=True)[:_LINES]
    reached = environment.from_string(folder.joinpath("reached.html.j2").read_text(encoding="utf-8")).render(
        whole=found.whole, roofline=found.roofline, unknown=found.unknown, lines=dearest
    )
    template = environment.from_string(folder.joinpath("profile.html.j2").read_text(encoding="utf-8"))
    piece = joined(comparison, parent, child) if comparison is not None else ""
    return template.render(parent=parent, child=child, piece=piece, reached=reached)
