"""The benchmark of texts: its small setting, from training to the section it would write."""

import sys
from pathlib import Path

import pytest
from benchmarks.texts.__main__ import main
from benchmarks.texts.report import _verdict
from benchmarks.texts.run import EAGER, FP32, INT8, LIGHTER, ORT, STUDENT, STUDENT_INT8, TORCH, Row

NAMES = (EAGER, FP32, INT8, LIGHTER, STUDENT, STUDENT_INT8, ORT, TORCH)


@pytest.mark.slow
def test_the_small_setting_measures_every_candidate_and_goes_on_from_what_it_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["texts", "--small", "--threads", "1", "--work", str(tmp_path)])
    main()
    first = _table(capsys.readouterr().out)
    assert set(first) == set(NAMES)
    assert float(first[EAGER][2]) > 0.8
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")}
    main()
    again = _table(capsys.readouterr().out)
    assert {name: row[2:4] for name, row in again.items()} == {name: row[2:4] for name, row in first.items()}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")} == kept


def _table(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows if row[0]}


@pytest.mark.parametrize(("lost", "said"), [(1.1, "at most 1.2 points lost: reached"), (1.3, "lost: **not reached**")])
def test_a_goal_is_held_against_the_limit_of_every_seed(lost: float, said: str) -> None:
    sound = Row(0.8, (-1, 0, 1), (3.1, 4, 5), 5, 20, 0.2)
    assert said in _verdict(INT8, 3, 1.2, [sound, sound._replace(lost=(0, 0.5, lost))])
