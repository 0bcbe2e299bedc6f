"""What the benchmark on solar cells writes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results import machine, taken
from benchmarks.solar.cells import CALIBRATION, SELECTION
from benchmarks.solar.fold import FP32, PLAIN, Setting

from headway.bundles.manifest import Accuracy
from headway.compress.qdq import Fusion
from headway.core.machine import here

_NAMED = 8  # layers that are named


@dataclass(frozen=True)
class Line:
    """A form's figures.

    Attributes:
        rows: of test.
        selection: accuracy on selection rows, over all folds.
        base: accuracy of FP32 on the same test rows.
        accuracy: on test rows, against FP32.
        folds: accuracy on each fold's test rows.
        auc: area under the ROC curve on test rows, the mean of the folds'.
        speed: low, median and high of how many times as fast as eager.
        ms: of one row, the median.
        quickest: of one row, the least.
        mb: of the file.
        layers: what ONNX Runtime makes of it.
    """

    rows: int
    selection: float | None
    base: float
    accuracy: Accuracy
    folds: tuple[float, ...]
    auc: float
    speed: tuple[float, float, float]
    ms: float
    quickest: float
    mb: float | None
    layers: Fusion | None

    @property
    def lost(self) -> float:
        """Points of accuracy."""
        return 100 * (self.base - self.accuracy.value)

    @property
    def least(self) -> float:
        """Points that are lost at least, with the confidence."""
        return 100 * self.base * (1 - self.accuracy.kept_interval[1])

    @property
    def most(self) -> float:
        """Points that are lost at most, with the confidence."""
        return 100 * self.base * (1 - self.accuracy.kept_interval[0])


def section(
    setting: Setting,
    lines: Mapping[str, Line],
    best: str,
    ranking: Sequence[Mapping[str, Any]],
    skipped: Sequence[str],
    minutes: float,
) -> str:
    """The figures as Markdown."""
    fp32, plain, won = lines[FP32], lines[PLAIN], lines[best]
    command = " ".join(["python -m benchmarks.solar", *(["--skip", *map(repr, skipped)] if skipped else [])])
    text = [
        f"## MobileNetV2 on solar cells, in 8 bits: {best}",
        "",
        f"{taken()} with `{command}`, in {minutes:.0f} minutes beyond what earlier runs had kept.",
        f"{machine()}; {here().int8.weight_range} range of 8-bit weights ({here().int8.reason}).",
        "",
        f"Fine-tuned from ImageNet's weights at {setting.side} x {setting.side} pixels for {setting.epochs:g} epochs",
        f"in each of {setting.folds} folds, seeded by their number; test accuracy",
        f"{', '.join(f'{share:.4f}' for share in fp32.folds)}. Defective is a probability above 1/2.",
        f"{CALIBRATION} calibration and {SELECTION} selection cells are in no fold. Each of {fp32.rows:,} cells is",
        "tested once, by the network that has not seen it. Lost: points of accuracy against FP32 on the same cells,",
        "and what 95% confidence leaves at most. Faster: than eager PyTorch. Layers: as ONNX Runtime runs them, in 8",
        "bits / in 32 / conversions between. Where `by fold` has one figure, the line is of the first fold alone.",
        f"Load average at the end: {os.getloadavg()[0]:.1f} on {here().cores} cores. Where it is above the cores, runs",
        "longer than a time slice are interrupted, and ratios flatter short ones: compare the quickest runs there.",
        "",
        "| line | selection | test | lost | at most | by fold | AUC | ms | quickest | faster | MB | layers |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, line in lines.items():
        low, median, high = line.speed
        by_fold = ", ".join(f"{100 * (a - b):.1f}" for a, b in zip(fp32.folds, line.folds, strict=False))
        made = line.layers
        cells = [
            f"**{name}**" if name == best else name,
            "" if line.selection is None else f"{line.selection:.4f}",
            f"{line.accuracy.value:.4f}",
            f"{line.lost:.2f}",
            f"{line.most:.2f}",
            by_fold,
            f"{line.auc:.4f}",
            f"{line.ms:.2f}",
            f"{line.quickest:.2f}",
            f"{median:.2f} ({low:.2f}-{high:.2f})",
            "" if line.mb is None else f"{line.mb:.2f}",
            f"{made.integer} / {made.floating} / {made.conversions}" if made else "",
        ]
        text.append(f"| {' | '.join(cells)} |")
    text += [
        "",
        f"- Within 1 point: **{verdict(won)}** for {best} ({won.lost:.2f} points lost, at most {won.most:.2f}).",
        f"- Plain min-max, one scale a tensor: {verdict(plain)} ({plain.lost:.2f}, at most {plain.most:.2f}).",
        *(_why(ranking) if ranking else []),
    ]
    return "\n".join(text)


def verdict(line: Line) -> str:
    """What is known of "loses at most one point"."""
    if line.most <= 1:
        return "yes"
    return "no" if line.least > 1 else "not proven either way"


def _why(ranking: Sequence[Mapping[str, Any]]) -> list[str]:
    """The layers that lose most in plain min-max, as `quantize.mixed` ranks them, and what helps."""
    worst = sorted(ranking, key=lambda group: -group["error"])[:_NAMED]
    return [
        "- Why, as `quantize: {per_channel: false, mixed: {}}` finds it (first fold; a layer, or as many in a row",
        "  as the time made necessary, alone in 8 bits; the one whose weights err most is named):",
        "",
        "  | layer | error of the outputs | error of its weights |",
        "  |---|---|---|",
        *(f"  | {_named(g['layers'])} | {g['error']:.1%} | {g['weight_error']:.1%} |" for g in worst),
        "",
        "  Weights err by channel, as one scale serves the whole tensor; `per_channel: true` takes that away.",
    ]


def _named(layers: Sequence[str]) -> str:
    return layers[0] + (f" (of {len(layers)})" if len(layers) > 1 else "")
