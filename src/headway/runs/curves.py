"""Curves of runs: in the terminal, and as SVG."""

from collections.abc import Mapping

from headway.core import plugins
from headway.core.svg import style, svg
from headway.runs.read import Curve

_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568")
_POINTS = 1000  # of a drawn curve


def thinned(curve: Curve, points: int = _POINTS) -> Curve:
    """At most `points` points that show what all would.

    Of each stretch the lowest and the highest stay (Jugel et al. 2014), and so do the first and the last point.
    """
    steps, values = curve
    stretches = max(1, (points - 2) // 2)
    if len(steps) <= max(points, 4):
        return curve
    keep = {0, len(steps) - 1}
    for i in range(stretches):
        stretch = range(i * len(steps) // stretches, (i + 1) * len(steps) // stretches)
        keep |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    kept = sorted(keep)
    return [steps[i] for i in kept], [values[i] for i in kept]


def in_terminal(curves: Mapping[str, Curve], title: str, *, x: str = "step", width: int = 72, height: int = 12) -> str:
    """Curves by run as text, one colourless picture; `x` says what lies along it.

    Raises:
        MissingDependencyError: plotille is not installed.
    """
    try:
        import plotille
    except ModuleNotFoundError as error:
        raise plugins.missing("plotille", needed_by="headway runs") from error
    figure = plotille.Figure()
    figure.width, figure.height, figure.with_colors = width, height, False
    figure.x_label, figure.y_label = x, title
    figure.register_label_formatter(float, _number)
    markers = (None, "x", "o", "+", "*", "#")
    for i, (run, curve) in enumerate(curves.items()):
        steps, values = thinned(curve, 2 * width)
        figure.plot(steps, values, label=run, marker=markers[i % len(markers)])
    text: str = figure.show(legend=len(curves) > 1)
    return text


def as_svg(curves: Mapping[str, Curve], title: str) -> str:
    """Curves by run as SVG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise plugins.missing("matplotlib", needed_by="headway runs") from error
    with style(10):
        figure = Figure(figsize=(7.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for i, (run, curve) in enumerate(curves.items()):
            axes.plot(*thinned(curve), label=run, color=_COLOURS[i % len(_COLOURS)], linewidth=1.2)
        positive = [value for _, values in curves.values() for value in values]
        if positive and min(positive) > 0 and max(positive) > 100 * min(positive):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(title)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        return svg(figure)


def _number(value: float, chars: int, delta: float, left: bool = False) -> str:
    text = f"{value:.4g}"
    return text.ljust(chars) if left else text.rjust(chars)
