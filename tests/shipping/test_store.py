"""A result is made once for a key, whole, and never half."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from headway.core.progress import SILENT
from headway.shipping.store import Store


def test_a_stage_runs_once_and_again_when_fresh(tmp_path: Path) -> None:
    made: list[int] = []

    def build(out: Path, scratch: Path) -> None:
        made.append(1)
        (out / "result").write_text(str(len(made)))

    for store, expected in ((Store(tmp_path, SILENT), "1"), (Store(tmp_path, SILENT), "1")):
        assert (store.stage("x", {"a": 1}, build) / "result").read_text() == expected
    assert (Store(tmp_path, SILENT).stage("x", {"a": 2}, build) / "result").read_text() == "2"
    fresh = Store(tmp_path, SILENT, fresh=True)
    assert (fresh.stage("x", {"a": 1}, build) / "result").read_text() == "3"
    assert (fresh.stage("x", {"a": 1}, build) / "result").read_text() == "3", "once is enough within a run"


def test_a_failed_stage_keeps_its_scratch_and_no_result(tmp_path: Path) -> None:
    def fails(out: Path, scratch: Path) -> None:
        (out / "half").write_text("x")
        (scratch / "checkpoint").write_text("kept")
        raise RuntimeError("half-way")

    def resumes(out: Path, scratch: Path) -> None:
        (out / "result").write_text((scratch / "checkpoint").read_text())

    with pytest.raises(RuntimeError, match="half-way"):
        Store(tmp_path, SILENT).stage("x", {}, fails)
    folder = Store(tmp_path, SILENT).stage("x", {}, resumes)
    assert [p.name for p in folder.iterdir()] == ["result"]
    assert (folder / "result").read_text() == "kept"
    assert not folder.with_suffix(".work").exists()


_KILLED = """
    import os, signal, sys
    from pathlib import Path
    from headway.core.progress import SILENT
    from headway.shipping.store import Store

    def build(out, scratch):
        (out / "half").write_text("x")
        (scratch / "checkpoint").write_text("kept")
        os.kill(os.getpid(), signal.SIGKILL)

    Store(Path(sys.argv[1]), SILENT).stage("x", {}, build)
"""


def test_a_killed_stage_leaves_no_result_and_no_lock(tmp_path: Path) -> None:
    asked = subprocess.run([sys.executable, "-c", textwrap.dedent(_KILLED), str(tmp_path)], check=False)
    assert asked.returncode == -9

    def build(out: Path, scratch: Path) -> None:
        (out / "result").write_text((scratch / "checkpoint").read_text())

    assert (Store(tmp_path, SILENT).stage("x", {}, build) / "result").read_text() == "kept"
