"""The record of one run: a folder under `HEADWAY_HOME/runs` that can be read whenever and however the run ends.

run.json        what was asked, what it stood on, what came of it; rewritten whole
metrics.jsonl   one line a step, appended; a killed run loses at most its last line
tensors.jsonl   (gradient's norm, mean, standard deviation) of every tensor, one line a look
"""

import json
import math
import os
import platform
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from headway.core import machine
from headway.core.errors import HeadwayError, storage_errors
from headway.core.files import home, make_folder, write_atomic
from headway.runs.provenance import git_commit, packages


class Process(BaseModel):
    """Which process writes a record. `created` is in seconds since 1970: numbers of processes are used again."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    created: float

    def lives(self) -> bool:
        """Whether it runs; of another host nothing can be known, and it is believed to."""
        if self.host != platform.node():
            return True
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created) < 1
        except psutil.Error:
            return False


class RunRecord(BaseModel):
    """`run.json`.

    Attributes:
        id: of the run, and its folder's name; ids sort by time.
        kind: "ship" or "train".
        status: "running", "finished", "refused", "insufficient", "failed" or "interrupted".
        continues: id of the run that it went on from.
        data: `sha256` over what was trained on, and `files` as `provenance.data_files` has them.
        findings: of the run's health.
        result: what came of it.
    """

    model_config = ConfigDict(extra="ignore")

    format: int = 1
    id: str
    kind: str
    name: str
    status: str = "running"
    started: datetime
    ended: datetime | None = None
    process: Process
    command: list[str] = []
    continues: str | None = None
    recipe: dict[str, Any] = {}
    seed: int | None = None
    data: dict[str, Any] = {}
    git_commit: str = ""
    packages: dict[str, str] = {}
    machine: dict[str, Any] = {}
    findings: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    error: str = ""


class Run:
    """A run under way, writing its record.

    Args:
        folder: of the record.
        record: as it stands.
    """

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder, self.record = folder, record
        self.save()

    def save(self) -> None:
        """Write `run.json` anew."""
        write_atomic(self.folder / "run.json", self.record.model_dump_json(indent=1))

    @classmethod
    def of(cls, folder: Path) -> "Run":
        """The record that another process keeps in `folder`, and has this one write to."""
        return cls(folder, RunRecord.model_validate_json((folder / "run.json").read_bytes()))

    def take_up(self) -> None:
        """Note what another process wrote into `run.json`, before it is written anew."""
        other = RunRecord.model_validate_json((self.folder / "run.json").read_bytes())
        self.record.continues, self.record.findings = other.continues, other.findings

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to `metrics.jsonl`; what is not finite becomes null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append("metrics.jsonl", {"step": step, **finite})

    def tensors(self, step: int, values: Mapping[str, tuple[float, float, float]]) -> None:
        """Append a line to `tensors.jsonl`, with six digits."""
        rounded = {name: [float(f"{value:.6g}") for value in row] for name, row in values.items()}
        self._append("tensors.jsonl", {"step": step, "tensors": rounded})

    def found(self, finding: Mapping[str, Any]) -> None:
        """Add a finding."""
        self.record.findings.append(dict(finding))
        self.save()

    def end(self, status: str, *, result: Mapping[str, Any] | None = None, error: str = "") -> None:
        """Close the record."""
        self.record.status, self.record.ended, self.record.error = status, datetime.now(UTC), error
        self.record.result = dict(result) if result is not None else self.record.result
        self.save()

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        # One write call on a descriptor in append mode: what a kill leaves is whole lines and at most one torn one.
        with storage_errors(), (self.folder / name).open("ab", buffering=0) as file:
            file.write((json.dumps(line, allow_nan=False) + "\n").encode())


def runs_folder() -> Path:
    """Where records lie."""
    return home() / "runs"


@contextmanager
def recording(
    kind: str,
    name: str,
    *,
    base: Path,
    recipe: Mapping[str, Any],
    seed: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Keep a record of the block. The block calls `Run.end`; where it raises, the record says how it ended.

    Args:
        kind: "ship" or "train".
        name: of what is made.
        base: the recipe's folder, whose git commit is noted.
        recipe: plain JSON.
        seed: of the training.
        data: see `RunRecord`.

    Raises:
        StorageError: no record can be written.
    """
    now = datetime.now(UTC)
    id_ = f"{now:%Y%m%d-%H%M%S}-{name[:40]}-{secrets.token_hex(2)}"
    folder = runs_folder() / id_
    make_folder(folder)
    record = RunRecord(
        id=id_,
        kind=kind,
        name=name,
        started=now,
        process=Process(host=platform.node(), pid=os.getpid(), created=psutil.Process().create_time()),
        command=sys.argv,
        recipe=dict(recipe),
        seed=seed,
        data=dict(data or {}),
        git_commit=git_commit(base),
        packages=packages(),
        machine=machine.here().model_dump(mode="json"),
    )
    run = Run(folder, record)
    try:
        yield run
    except HeadwayError as error:
        run.end("failed", error=str(error))
        raise
    except Exception as error:
        run.end("failed", error=f"{type(error).__name__}: {error}")
        raise
    except BaseException:
        run.end("interrupted")
        raise
    if run.record.status == "running":
        run.end("finished")
