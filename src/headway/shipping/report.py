"""`report.html`: one file that opens offline. Verdict, picture, what won, what lost and why."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from headway.bundles.manifest import StepRecord
from headway.core import machine
from headway.core.svg import style, svg
from headway.runs.curves import as_svg
from headway.shipping.evaluate import Evaluation
from headway.shipping.gate import rows_needed
from headway.shipping.joined import joined
from headway.shipping.recipe import Recipe
from headway.shipping.search.report import search_picture
from headway.shipping.search.result import SearchResult
from headway.shipping.slower import Slower
from headway.shipping.verdict import Judged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"pass": "#1a7f4b", "fail": "#c0392b", "insufficient": "#b7791f"}
_LAYERS = 40  # of a ranking that are drawn
_BOUNDS = (0.95, 0.98, 0.99, 0.995, 0.999)


def render(
    recipe: Recipe,
    verdict: str,
    chosen: str | None,
    nearest: str,
    judged: Mapping[str, Judged],
    evaluation: Evaluation,
    slower: Mapping[str, Slower],
    training: Mapping[str, Any],
    search: SearchResult | None = None,
) -> str:
    """The report's HTML.

    Args:
        recipe: what was asked.
        verdict: "shipped", "refused" or "insufficient".
        chosen: id of the variant that ships, if one does.
        nearest: id of the variant that is chosen or came nearest.
        judged: every variant by id.
        evaluation: the figures.
        slower: why variants are not faster than what they were made from, by id.
        training: what `TrainResult.document` says; may be empty.
        search: how the steps were found; None where the recipe names them.
    """
    from jinja2 import Environment

    template = files("headway.shipping").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(
        name=recipe.config.name,
        task=recipe.config.task.use,
        target=recipe.config.target,
        verdict=verdict,
        chosen=chosen,
        nearest=nearest,
        judged=judged,
        reference=evaluation.reference,
        machine=machine.here(),
        picture=_picture(judged, evaluation, recipe.config.target.keep_accuracy),
        colours=_COLOURS,
        rankings=_rankings(judged),
        slower=slower,
        joined={id_: joined(it.comparison, it.over.parent, id_) for id_, it in slower.items()},
        training=training,
        norms=_norms(training.get("norms", ())),
        ledger=_ledger(judged),
        tighter=_tighter(judged[nearest], recipe.config.target.keep_accuracy),
        search=search,
        front=search_picture(search, recipe.config.target.keep_accuracy) if search is not None else "",
    )


def _ledger(judged: Mapping[str, Judged]) -> list[tuple[str, StepRecord]]:
    """Every step that was taken, with the steps up to it; what variants share stands once."""
    found = {}
    for taken in (variant.built.records for variant in judged.values()):
        for i, record in enumerate(taken):
            found[record.checkpoint] = ", ".join(r.step for r in taken[: i + 1]), record
    return list(found.values())


def _norms(norms: Sequence[Sequence[float]]) -> str:
    """The gradient's norm over the steps, as SVG."""
    steps, values = [int(step) for step, _ in norms], [norm for _, norm in norms]
    return as_svg({"": (steps, values)}, "gradient norm") if len(norms) > 1 else ""


def _rankings(judged: Mapping[str, Judged]) -> dict[str, dict[str, Any]]:
    """What steps found out of single layers (`headway.compress.sensitivity`), by variant; worst layers first."""
    found = {}
    for id_, variant in judged.items():
        for record in variant.built.records:
            if story := record.record.get("mixed"):
                worst = sorted(story["ranking"], key=lambda group: group["error"], reverse=True)
                found[id_] = {**story, "ranking": worst[:_LAYERS], "left_out": len(worst[_LAYERS:])}
    return found


def _tighter(judged: Judged, keep: float) -> list[tuple[float, str]]:
    """Bounds beyond the recipe's, with the test rows that each would need."""
    seen = judged.card.accuracy
    told = []
    for bound in (b for b in _BOUNDS if b > keep):
        needed = rows_needed(seen, bound)
        if seen.kept_interval[0] >= bound:
            told.append((bound, f"proven by these {seen.rows:,}"))
        else:
            told.append((bound, f"about {needed:,}" if needed else "no number: the estimate itself is below it"))
    return told


def _picture(judged: Mapping[str, Judged], evaluation: Evaluation, keep: float) -> str:
    """Accuracy against latency as SVG: each variant with its intervals, the original, and what must be kept."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    reference = evaluation.reference
    with style():
        figure = Figure(figsize=(8.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        metric = next(iter(judged.values())).card.accuracy.metric
        axes.axhline(keep * reference.accuracy, color="#888", linestyle="--", linewidth=1)
        axes.annotate(
            f"{keep:.4g} of the original",
            (1, keep * reference.accuracy),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color="#666",
        )
        axes.plot(reference.latency_ms.p50, reference.accuracy, "D", color="#34495e", markersize=8)
        latencies = [reference.latency_ms.p50, *(variant.card.latency_ms.p50 for variant in judged.values())]
        middle = (min(latencies) * max(latencies)) ** 0.5
        _label(axes, f"original, {reference.name}", reference.latency_ms.p50, reference.accuracy, middle, 0)
        for level, (id_, variant) in enumerate(judged.items()):
            card, colour = variant.card, _COLOURS[variant.gate.outcome]
            low, high = (reference.accuracy * end for end in card.accuracy.kept_interval)
            value, latency = card.accuracy.value, card.latency_ms
            axes.errorbar(
                latency.p50,
                value,
                yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                xerr=[[0.0], [max(0.0, latency.p99 - latency.p50)]],
                fmt="o",
                color=colour,
                markersize=8,
                capsize=3,
                linewidth=1.2,
            )
            _label(axes, id_, latency.p50, value, middle, level)
        axes.set_xlabel("latency at batch 1, ms (dot: median, bar: to the 99th percentile)")
        axes.set_ylabel(f"{metric} on test data")
        axes.set_xscale("log")  # speed is a ratio
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.14, y=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        return svg(figure)


def _label(axes: "Axes", text: str, x: float, y: float, middle: float, level: int) -> None:
    """Beside the dot, towards the middle of the picture; neighbours in the list stand on different levels."""
    right = x > middle
    place = (-9 if right else 7, (8, -18, 22, -32)[level % 4])
    note = axes.annotate(text, (x, y), place, textcoords="offset points", ha="right" if right else "left")
    note.set_in_layout(False)  # it lies within the axes, which therefore need not shrink for it
