"""`steps: auto` on real data: what it finds ships by the gate, resumes, costs nothing the second time, and says so."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headway.bundles.bundle import Bundle
from headway.core.errors import DataError, MissingDependencyError, TaskError
from headway.core.progress import SILENT, Bar
from headway.shipping.search import search
from headway.shipping.search.rungs import TOP
from headway.shipping.ship import ship
from headway.shipping.verdict import ShipResult

CHEAP = "steps={auto: {minutes: 100, trials: 3, allow: [qat, quantize]}}"


class Lines:
    """Keeps what is said; raises at a line that contains `at`."""

    def __init__(self, at: str = "\n") -> None:
        self.at, self.said = at, list[str]()

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        with SILENT.work(title, total) as bar:
            yield bar

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.at in text:
            raise KeyboardInterrupt


def auto(project: Path, steps: str = CHEAP, *more: str, progress: Any = SILENT) -> ShipResult:
    return ship(project / "tiny.yaml", out=project / "out", overrides=[steps, *more], progress=progress)


def stages(project: Path) -> set[str]:
    """Every result that is kept, but for the last measurement and the bundle."""
    cache = project.parent / "home" / "cache" / "ship"
    return {
        f"{f.parent.name}/{f.name}"
        for f in cache.glob("*/*")
        if f.is_dir() and f.suffix != ".work" and f.parent.name not in ("evaluation", "bundle")
    }


def made(cache: Path) -> dict[str, int]:
    """When each finished candidate was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in cache.glob("[!.]*/trial.json")}


def figures(result: ShipResult) -> dict[str, Any]:
    assert result.search is not None
    return result.search.document()


def test_a_search_ships_and_says_what_it_looked_at(project: Path) -> None:
    result = auto(project)
    found = figures(result)
    assert json.loads(json.dumps(result.document(), allow_nan=False))["search"] == found
    assert result.verdict == "shipped"
    assert found["candidates"] == len(found["trials"]) == 3
    assert found["ended"] == "3 candidates were to be looked at"
    assert [list(step) for step in found["trials"][0]["steps"]] == [["quantize"]], "what costs no training comes first"
    assert found["trials"][0]["rung"] == TOP + 1
    for trial in found["trials"]:
        assert {"number", "steps", "rung", "seconds", "front", "why"} <= trial.keys()
        assert {"accuracy", "kept", "kept_ci", "speedup", "p99_ms", "size_mb", "size_ratio"} <= trial.keys()
        low, middle, high = trial["speedup"]
        assert low <= middle <= high
    front = [t for t in found["trials"] if t["front"]]
    assert front
    for one in front:
        assert not any(
            t["kept"] >= one["kept"] and t["speedup"][1] > one["speedup"][1] and t["size_mb"] < one["size_mb"]
            for t in found["trials"]
        )
    assert set(found["finalists"].values()) <= {t["number"] for t in front}
    assert list(result.judged) == ["original", *found["finalists"]]
    (confidence,) = {judged.card.accuracy.confidence for judged in result.judged.values()}
    assert confidence == pytest.approx(1 - 0.05 / len(found["finalists"])), "shared by finalists alone"
    assert found["next"]

    bundle = Bundle.open(project / "out")
    assert bundle.manifest.lineage.search == {k: v for k, v in found.items() if k not in ("trials", "next")}
    report = result.report.read_text()
    assert "kept on selection data" in report, "the front is drawn"
    assert "What more time would be spent on" in report
    for trial in found["trials"]:
        assert f"<td>{trial['number']}</td>" in report

    before = stages(project)
    again = auto(project)
    assert stages(project) == before, "the same search again builds nothing"
    assert figures(again) == found
    assert again.version == result.version == "1", "the same bundle"
    more = figures(auto(project, CHEAP.replace("trials: 3", "trials: 4")))
    assert len(more["trials"]) == 4
    assert before < stages(project), "what was there is gone on from"


def test_an_interrupted_search_goes_on(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        auto(project, progress=Lines(at=": 2, rung"))
    cache = project.parent / "home" / "cache" / "ship" / "trial"
    kept = made(cache)
    assert len(kept) == 2
    lines = Lines()
    result = auto(project, progress=lines)
    assert made(cache).items() >= kept.items(), "finished candidates are not made again"
    told = [line for line in lines.said if line.startswith("search ")]
    assert len(told) == figures(result)["builds"]


def test_a_killed_search_goes_on(project: Path) -> None:
    command = [Path(sys.executable).with_name("headway"), "ship", "tiny.yaml", "--out", "out", "--set", CHEAP]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while line := run.stderr.readline():
            if line.startswith("search "):
                break
        run.send_signal(signal.SIGKILL)
        run.stderr.read()
    cache = project.parent / "home" / "cache" / "ship" / "trial"
    kept = made(cache)
    assert kept
    assert auto(project).verdict == "shipped"
    assert made(cache).items() >= kept.items()


def test_with_no_time_the_cheapest_candidate_is_still_looked_at(project: Path) -> None:
    found = figures(auto(project, "steps={auto: {minutes: 0.0001}}"))
    assert [trial["number"] for trial in found["trials"]] == [1]
    assert "the 0.0001 minutes are used" in found["ended"]
    assert found["finalists"] == {"quantized-t1": 1}
    assert found["next"], "it says what it would try with more"


def test_a_graph_is_searched_too(project: Path) -> None:
    ship(project / "tiny.yaml", out=project / "out")
    (project / "graph.yaml").write_text(
        (project / "tiny.yaml").read_text() + "model: {onnx: out/variants/original/model.onnx}\n"
    )
    result = ship(project / "graph.yaml", out=project / "graph", overrides=["steps={auto: {minutes: 100, trials: 3}}"])
    assert {name for trial in figures(result)["trials"] for step in trial["steps"] for name in step} == {"quantize"}
    assert result.evaluation.reference.name == "the given ONNX file"


def test_a_candidate_that_fails_is_told_and_the_others_go_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headway.compress.prune import Prune

    def broken(self: Prune, model: object, context: object) -> None:
        raise TaskError("nothing can be pruned")

    monkeypatch.setattr(Prune, "apply", broken)
    result = auto(project, CHEAP.replace("qat", "prune").replace("3", "2"))
    failed = [t for t in figures(result)["trials"] if "prune" in t["steps"][0]]
    assert failed
    assert all(t["why"] == "failed: nothing can be pruned" and "kept" not in t for t in failed)
    assert result.verdict == "shipped"
    assert "nothing can be pruned" in result.report.read_text()


def test_what_the_original_cannot_do_is_no_candidates_failure(project: Path) -> None:
    wrong = "metric=Metric('mine', lambda o, t: np.zeros(len(t)), binary=True), labels=tuple"
    text = (project / "tiny.py").read_text()
    text = text.replace("import Task, split", "import Metric, Task, split\nimport numpy as np")
    (project / "tiny.py").write_text(text.replace("labels=tuple", wrong))
    with pytest.raises(DataError, match="on the selection part is 0"):
        auto(project, CHEAP, "train.epochs=1")


def test_the_impossible_is_refused_with_the_nearest(project: Path) -> None:
    result = auto(project, CHEAP.replace("trials: 3", "trials: 1"), "target.max_size_mb=1e-6")
    assert result.verdict == "refused"
    assert "What was searched" in result.report.read_text()


def test_without_optuna_it_says_so_before_any_work(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="optuna is not installed"):
        auto(project)
    assert not (project.parent / "home" / "cache").exists()
