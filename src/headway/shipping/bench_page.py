"""A sweep as a page that opens offline: the curve of throughput against latency, and its figures."""

from importlib.resources import files
from math import inf
from typing import TYPE_CHECKING

from headway.core import machine
from headway.core.svg import style, svg
from headway.measure.sweep import Point
from headway.shipping.bench_modes import Sweep
from headway.shipping.bench_told import COLUMNS, cells, told

if TYPE_CHECKING:
    from headway.shipping.bench import Bench

_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568")


def page(found: "Bench") -> str:
    """One HTML file of a sweep."""
    from jinja2 import Environment

    result = found.result
    if not isinstance(result, Sweep):
        raise TypeError("only a sweep has a page")
    template = files("headway.shipping").joinpath("bench.html.j2").read_text(encoding="utf-8")
    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    chosen = result.best or result.knee
    return made.render(
        found=found, result=result, columns=COLUMNS, cells=[(it == chosen, cells(it)) for it in result.points],
        told=told(found), machine=machine.here().summary(), picture=curve(result.points, chosen, found.p99_ms),
    )  # fmt: skip


def curve(points: tuple[Point, ...], chosen: Point, p99_ms: float | None = None) -> str:
    """Throughput over the median latency as SVG, a line for each number of threads."""
    from matplotlib.figure import Figure

    with style(10):
        figure = Figure(figsize=(7.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for i, threads in enumerate(sorted({it.threads for it in points})):
            colour = _COLOURS[i % len(_COLOURS)]
            line = sorted((it for it in points if it.threads == threads), key=lambda it: it.batch)
            at, height = [it.latency.p50 for it in line], [it.rows_s for it in line]
            # Without an upper limit, a 99th percentile is not told.
            tail = [it.latency.p99 - it.latency.p50 if it.latency.p99_high is not None else 0.0 for it in line]
            axes.errorbar(
                at, height, xerr=[[0.0] * len(line), tail], label=f"{threads} thread{'s' if threads > 1 else ''}",
                color=colour, marker="o", markersize=4, linewidth=1.2, elinewidth=0.6, capsize=2,
            )  # fmt: skip
            for it in line:
                axes.annotate(
                    str(it.batch), (it.latency.p50, it.rows_s), xytext=(0, -14 if i % 2 else 6), ha="center",
                    textcoords="offset points", fontsize="small", color=colour,
                )  # fmt: skip
        axes.plot([chosen.latency.p50], [chosen.rows_s], "o", markersize=12, fillstyle="none", color="#1c2329")
        if p99_ms is not None and p99_ms < inf:
            axes.axvline(p99_ms, color="#b83280", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("latency of a run, ms: median, and to the right its 99th percentile; numbers are batches")
        axes.set_ylabel("rows/s")
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        return svg(figure)
