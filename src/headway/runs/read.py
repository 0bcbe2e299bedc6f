"""Reading records: of runs that ended well, were killed, or are under way."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headway.core.errors import UsageError
from headway.runs.record import RunRecord, runs_folder

Curve = tuple[list[int] | list[float], list[float]]


@dataclass(frozen=True)
class Recorded:
    """A run's folder and its record; `record.status` says "interrupted" where its process is gone."""

    folder: Path
    record: RunRecord

    def lines(self) -> list[dict[str, Any]]:
        """Every line of the metrics; those of the run that it went on from come first."""
        own: list[dict[str, Any]] = []
        for line in _lines(self.folder / "metrics.jsonl"):
            if "loss" in line and own and line["step"] <= own[-1]["step"]:  # started again from a checkpoint
                own = [earlier for earlier in own if earlier["step"] < line["step"]]
            own.append(line)
        before = self.folder.parent / (self.record.continues or "")
        if not self.record.continues or not (before / "run.json").is_file():
            return own
        first = own[0]["step"] if own else float("inf")
        return [line for line in _open(before).lines() if line["step"] < first] + own

    def curves(self) -> dict[str, Curve]:
        """(Steps, values) of each metric, where it has a value."""
        found: dict[str, Curve] = {}
        for line in self.lines():
            for name, value in line.items():
                if name != "step" and isinstance(value, int | float):
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(line["step"])
                    values.append(float(value))
        return found

    def summary(self) -> dict[str, Any]:
        """What a list shows of it."""
        record, lines = self.record, self.lines()
        last: dict[str, Any] = next((line for line in reversed(lines) if line.get("loss") is not None), {})
        ended = record.ended.isoformat(timespec="seconds") if record.ended else None
        return {
            "id": record.id,
            "kind": record.kind,
            "name": record.name,
            "status": record.status,
            "started": record.started.isoformat(timespec="seconds"),
            "ended": ended,
            "steps": lines[-1]["step"] if lines else 0,
            "loss": last.get("loss"),
            "findings": len(record.findings),
        }


def recorded() -> list[Recorded]:
    """Every run, oldest first; a folder without a readable record is left out."""
    found = []
    for folder in sorted(path.parent for path in runs_folder().glob("*/run.json")):
        try:
            found.append(_open(folder))
        except UsageError:
            continue
    return found


def find(reference: str) -> Recorded:
    """The run whose id is, or begins with, `reference`; or the latest where it is "last" or a run's name.

    Raises:
        UsageError: there is none, or there are several.
    """
    runs = recorded()
    if reference == "last" and runs:
        return runs[-1]
    several = [run for run in runs if run.record.id.startswith(reference)]
    several = several or [run for run in runs if run.record.name == reference][-1:]
    if len(several) == 1:
        return several[0]
    what = f"{len(several)} runs begin so" if several else "no such run"
    raise UsageError(what, where=reference, remedy="See them with: headway runs list")


def _open(folder: Path) -> Recorded:
    path = folder / "run.json"
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError("not a run's record", where=str(path)) from error
    if record.status == "running" and not record.process.lives():
        record.status = "interrupted"
    return Recorded(folder, record)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                yield json.loads(text)
            except ValueError:
                continue  # torn by a kill
