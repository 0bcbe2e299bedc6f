"""The search in `report.html`: the front of accuracy and speed, with size as the dots' size."""

from headway.core.svg import style, svg
from headway.shipping.search.result import SearchResult

_FRONT, _GATE, _OTHER = "#2b6cb0", "#1a7f4b", "#a0aec0"
_AREA = 260  # of a dot, in points squared, at the original's size


def search_picture(search: SearchResult, keep: float) -> str:
    """The share of the metric that each candidate kept on selection data against its speed, as SVG.

    Args:
        search: what was found.
        keep: the share that is asked for.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    measured = {trial.number: figures for trial in search.trials if (figures := trial.figures) is not None}
    with style():
        figure = Figure(figsize=(8.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(keep, color="#888", linestyle="--", linewidth=1)
        axes.plot(1, 1, "D", color="#34495e", markersize=8)
        axes.annotate("original", (1, 1), (7, 6), textcoords="offset points")
        for number, found in measured.items():
            gate, front = number in search.finalists, number in search.front
            place = found.speedup[1], found.accuracy.kept
            axes.scatter(
                *place,
                s=max(12.0, _AREA * found.size_ratio),
                color=_GATE if gate else _FRONT if front else _OTHER,
                alpha=0.75 if front else 0.45,
                linewidths=0,
                zorder=3 if front else 2,
            )
            if front:
                axes.annotate(str(number), place, (5, 4), textcoords="offset points", fontsize=9, color="#333")
        axes.set_xlabel("speed, as a multiple of the original's")
        axes.set_ylabel("kept on selection data")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        low = min([keep, *(measured[n].accuracy.kept for n in search.front)], default=keep)
        if low < 1:  # what lies far below what anybody asks for would press the rest together
            axes.set_ylim(bottom=max(low, 1 - 4 * max(1 - keep, 0.02)) - 0.01)
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        return svg(figure)
