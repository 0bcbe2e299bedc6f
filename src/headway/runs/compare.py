"""Runs beside each other: the settings that differ, what came of each, and their curves on one page."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from headway.runs.curves import as_svg
from headway.runs.read import Curve, Recorded

CURVES = ("loss", "norm", "lr", "rows_s")


def differing(runs: Sequence[Recorded]) -> dict[str, list[Any]]:
    """What the runs were asked and stood on, by dotted key, where it is not the same for all; one value a run."""
    flat = [dict(_flat(_settings(run))) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = {key: [one.get(key) for one in flat] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def outcomes(runs: Sequence[Recorded]) -> dict[str, list[Any]]:
    """What came of each run, by name; one value a run."""
    rows = []
    for run in runs:
        curves, record = run.curves(), run.record
        row: dict[str, Any] = {key: run.summary()[key] for key in ("status", "steps", "loss")}
        row["lowest loss"] = min(curves["loss"][1]) if "loss" in curves else None
        row["seconds"] = round((record.ended - record.started).total_seconds(), 1) if record.ended else None
        row |= {key: value for key, value in _flat(record.result) if isinstance(value, int | float | str)}
        row["findings"] = len(record.findings)
        rows.append(row)
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def together(runs: Sequence[Recorded], names: Sequence[str] = CURVES) -> dict[str, dict[str, Curve]]:
    """Curves by metric, and then by run."""
    each = {run.record.id: run.curves() for run in runs}
    found = {name: {id_: curves[name] for id_, curves in each.items() if name in curves} for name in names}
    return {name: curves for name, curves in found.items() if curves}


def page(runs: Sequence[Recorded]) -> str:
    """One HTML file that opens offline."""
    from jinja2 import Environment

    template = files("headway.runs").joinpath("page.html.j2").read_text(encoding="utf-8")
    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return made.render(
        runs=runs,
        settings=differing(runs) if len(runs) > 1 else {},
        outcomes=outcomes(runs),
        pictures={name: as_svg(curves, name) for name, curves in together(runs).items()},
    )


def _settings(run: Recorded) -> dict[str, Any]:
    record = run.record
    about = {"data": record.data.get("sha256"), "git_commit": record.git_commit, "machine": record.machine.get("cpu")}
    return {**record.recipe, **about, "packages": record.packages}


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found += _flat(inner, f"{prefix}{key}.")
        else:
            found.append((prefix + key, inner))
    return found
