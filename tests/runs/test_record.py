"""Records of runs that end well, badly, or not at all."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headway.core.errors import TaskError, UsageError
from headway.runs.read import find, recorded
from headway.runs.record import Run, recording


def _record(name: str = "digits", **values: object) -> object:
    return recording("train", name, base=Path(), recipe={"train": {"lr": 0.1}}, **values)  # type: ignore[arg-type]


def test_a_run_that_ends_well(home: Path) -> None:
    with recording(
        "ship", "digits", base=Path(__file__).parent, recipe={"train": {"lr": 0.1}}, seed=7, data={"sha256": "ab"}
    ) as run:
        for step in range(1, 4):
            run.metrics(step, {"loss": 1 / step, "norm": float("inf")})
        run.tensors(1, {"weight": (1.23456789, 0.0, 1.0)})
        run.found({"kind": "dead", "layer": "0", "step": 2, "figure": 1.0, "message": "m", "advice": "a"})
        run.end("finished", result={"accuracy": 0.9})
    (found,) = recorded()
    record = found.record
    assert (record.status, record.seed, record.data, record.result) == (
        "finished",
        7,
        {"sha256": "ab"},
        {"accuracy": 0.9},
    )
    assert record.ended is not None
    assert record.ended >= record.started
    assert record.packages["numpy"]
    assert len(record.git_commit.removesuffix("+changes")) == 40
    assert record.machine["cores"] >= 1
    assert found.curves() == {"loss": ([1, 2, 3], [1, 0.5, 1 / 3])}, "what is not finite has no place on a curve"
    assert found.summary()["findings"] == 1
    assert json.loads((found.folder / "tensors.jsonl").read_text()) == {
        "step": 1,
        "tensors": {"weight": [1.23457, 0.0, 1.0]},
    }


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (TaskError("no such layer", where="task.py:3"), "failed", "task.py:3: no such layer"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "interrupted", ""),
    ],
)
def test_a_run_that_raises_says_how_it_ended(home: Path, error: BaseException, status: str, said: str) -> None:
    with pytest.raises(type(error)), _record():  # type: ignore[attr-defined]
        raise error
    assert (find("last").record.status, find("last").record.error) == (status, said)


_CHILD = """
import sys
from pathlib import Path
from headway.runs.record import recording

with recording("train", "killed", base=Path(), recipe={}) as run:
    for step in range(1, 101):
        run.metrics(step, {"loss": 1 / step})
    print("here", flush=True)
    sys.stdin.readline()
"""


def test_a_killed_run_stays_readable_and_shows_as_interrupted(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        assert find("killed").record.status == "running"
        child.send_signal(signal.SIGKILL)
    found = find("killed")
    assert found.record.status == "interrupted"
    assert found.summary()["steps"] == 100
    metrics = found.folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-7])  # as a full disk or a lost power supply leaves it
    assert find("killed").summary()["steps"] == 99


def test_a_run_that_went_on_shows_the_whole_curve(home: Path) -> None:
    def write(run: Run, steps: range) -> None:
        for step in steps:
            run.metrics(step, {"loss": float(step)})

    with _record() as first:  # type: ignore[attr-defined]
        write(first, range(1, 21))
    with _record() as second:  # type: ignore[attr-defined]
        second.record.continues = first.record.id
        write(second, range(17, 31))  # the checkpoint was of step 16
    steps, values = find(second.record.id).curves()["loss"]
    assert steps == list(range(1, 31))
    assert values == [float(step) for step in range(1, 31)]


def test_runs_are_found_by_id_name_or_last(home: Path) -> None:
    with pytest.raises(UsageError, match="no such run"):
        find("last")
    ids = []
    for name in ("one", "two", "one"):
        with _record(name) as run:  # type: ignore[attr-defined]
            ids.append(run.record.id)
    assert len(set(ids)) == 3
    assert find(ids[0]).record.id == ids[0]
    assert find("two").record.id == ids[1]
    assert find("last").record.id == max(ids)
    with pytest.raises(UsageError, match="3 runs begin so"):
        find(ids[0][:4])
    (home / "runs" / ids[0] / "run.json").write_text("{")
    assert len(recorded()) == 2, "what cannot be read does not hide the rest"
