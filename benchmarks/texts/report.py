"""What the benchmark of texts says in benchmarks/RESULTS.md."""

from collections.abc import Mapping, Sequence
from os import getloadavg

import numpy as np
from benchmarks.results import machine, taken
from benchmarks.texts.run import CONFIDENCE, EAGER, LIGHTER, STUDENT_INT8, Row, Setting

from headway.tasks import Task
from headway.tasks.tokens import TokenRows

SMALL_ENOUGH = 0.25
GOALS = {LIGHTER: (3.0, 1.2), STUDENT_INT8: (6.0, 3.0)}  # times as fast, and points lost


def section(
    setting: Setting,
    task: Task,
    selection: Mapping[int, Mapping[str, float]],
    found: Mapping[int, Mapping[str, Row]],
    minutes: float,
) -> str:
    """The whole text.

    Args:
        setting: what was trained.
        task: its texts.
        selection: accuracy on selection texts, by seed and candidate.
        found: test figures, by seed and candidate.
        minutes: that it took.
    """
    seeds = " ".join(map(str, found))
    lines = [
        "## A BERT encoder on film reviews",
        "",
        f"{taken()} with `python -m benchmarks.texts --seeds {seeds} --epochs {setting.train.epochs:g} "
        f"--distill-epochs {setting.distill:g}`; the last run of it, after what was kept, took {minutes:.0f} minutes.",
        f"{machine()}; one thread a run. Load average at the end: {getloadavg()[0]:.1f}; where it is more than the "
        "cores, milliseconds are too many, and only the ratios, which are taken within rounds, mean something.",
        "",
        _data(task),
        f"MiniLM (6 layers) was fine-tuned for {setting.train.epochs:g} epochs of {setting.train.batch_size} rows "
        f"at {setting.train.lr:g}; nothing was chosen on test texts.",
        f"Pruned: {setting.light:.0%} of the parameters stay, by Taylor importance, then {setting.recover:g} epochs of "
        f"fine-tuning. Student: layers {', '.join(map(str, setting.kept))}, {setting.narrow:.0%} of their parameters, "
        f"under the original for {setting.distill:g} epochs, by logits and the text's vector. int8: dynamic, tables in "
        "8 bits.",
        "Points lost and times are held against the original, pair by pair, on test texts one at a time; sizes "
        f"against its safetensors file. In brackets {CONFIDENCE:.0%} limits, each one-sided.",
        "",
        "| | seed | selection | test | points lost | faster | ms a text | MB | size |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(name, seed, row, selection[seed]) for seed, rows in found.items() for name, row in rows.items()),
        "",
        *(_verdict(name, *goal, [rows[name] for rows in found.values()]) for name, goal in GOALS.items()),
    ]
    return "\n".join(lines)


def _data(task: Task) -> str:
    parts = {name: getattr(task.parts, name) for name in ("train", "calibration", "selection", "test")}
    counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    assert isinstance(task.parts.test, TokenRows)
    low, middle, high = np.percentile(task.parts.test.lengths, [5, 50, 95])
    error = 100 * np.sqrt(0.25 * 0.6 / len(task.parts.test))
    return (
        f"Texts: {counts}, whole films in one part; tokens at 5%, 50% and 95%: {low:.0f}, {middle:.0f}, {high:.0f}. "
        f"The standard error of an accuracy on test is about {error:.1f} points, so differences are taken in pairs."
    )


def _line(name: str, seed: int, row: Row, selection: Mapping[str, float]) -> str:
    chosen = f"{selection[name]:.4f}" if name in selection else ""
    lost = "" if name == EAGER else f"{row.lost[1]:.2f} ({row.lost[0]:.2f} to {row.lost[2]:.2f})"
    faster = "1" if name == EAGER else f"{row.faster[1]:.2f} ({row.faster[0]:.2f}-{row.faster[2]:.2f})"
    return (
        f"| {name} | {seed} | {chosen} | {row.accuracy:.4f} | {lost} | {faster} | {row.ms:.2f} | {row.mb:.2f} "
        f"| {row.share:.2%} |"
    )


def _verdict(name: str, faster: float, lost: float, rows: Sequence[Row]) -> str:
    """The goal, and whether each part of it was proven for every seed."""
    slowest, worst, largest = (
        min(row.faster[0] for row in rows), max(row.lost[2] for row in rows), max(row.share for row in rows)
    )  # fmt: skip
    parts = [
        (f"at least {faster:g} times as fast", slowest >= faster, f"{slowest:.2f} is proven"),
        (f"at most {lost:g} points lost", worst <= lost, f"{worst:.2f} cannot be excluded, and the goal stands"),
        (f"at most {SMALL_ENOUGH:.0%} of the size", largest <= SMALL_ENOUGH, f"{largest:.2%}"),
    ]
    said = "; ".join(f"{what}: {'reached' if good else f'**not reached**, {found}'}" for what, good, found in parts)
    return f"- {name}: {said}."
