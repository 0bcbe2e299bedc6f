"""matplotlib's figures for pages of HTML."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def style(points: int = 11) -> Iterator[None]:
    """For drawing within: text of this size stays text, and element ids do not change from run to run."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "headway", "font.size": points}):
        yield


def svg(figure: "Figure") -> str:
    """A figure for a page of HTML."""
    drawn = StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]  # without the XML prologue, which HTML does not know
