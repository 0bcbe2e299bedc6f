"""`headway runs`, over records of real ships."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headway.cli.runs import app
from headway.core.errors import UsageError
from headway.runs.record import recording

RUNS = {"slow": 0.01, "fast": 0.1}


@pytest.fixture
def runs(home: Path) -> dict[str, str]:
    """Two runs that differ in their rate; ids by name."""
    ids = {}
    for name, lr in RUNS.items():
        recipe = {"train": {"lr": lr, "epochs": 2}}
        with recording("train", name, base=home.parent, recipe=recipe, data={"sha256": "ab"}) as run:
            ids[name] = run.record.id
            for step in range(1, 51):
                run.metrics(step, {"loss": (1 - lr) ** step, "lr": lr})
            run.found(
                {"kind": "dead", "layer": "0", "step": 8, "figure": 1, "message": "they are dead", "advice": "less"}
            )
            run.end("finished", result={"accuracy": 0.5 + lr})
    return ids


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_no_runs_yet(home: Path) -> None:
    assert "no runs yet" in _run("list")
    assert json.loads(_run("list", "--json")) == []


def test_they_are_listed(runs: dict[str, str]) -> None:
    rows = json.loads(_run("list", "--json"))
    assert [row["name"] for row in rows] == [name for name, _ in sorted(runs.items(), key=lambda item: item[1])]
    assert all((row["status"], row["steps"], row["findings"]) == ("finished", 50, 1) for row in rows)
    assert all(id_ in _run("list") for id_ in runs.values())


def test_one_is_shown_with_its_findings_and_curve(runs: dict[str, str]) -> None:
    text = _run("show", "fast")
    assert all(part in text for part in (runs["fast"], "they are dead", "try: less", "accuracy", "(step)", "(loss)"))
    assert "(lr)" in _run("show", "fast", "--metric", "lr")
    document = json.loads(_run("show", runs["fast"], "--json"))
    assert document["recipe"]["train"]["lr"] == 0.1
    assert len(document["metrics"]) == 50
    with pytest.raises(UsageError, match="no run has this metric") as caught:
        _run("show", "fast", "--metric", "los")
    assert "loss, lr" in str(caught.value.remedy)


def test_comparing_shows_what_differs_and_nothing_else(runs: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    document: dict[str, Any] = json.loads(_run("compare", "slow", "fast", "--json", "--html", page))
    assert document["runs"] == [runs["slow"], runs["fast"]]
    assert document["differs"] == {"train.lr": [0.01, 0.1]}
    assert document["outcomes"]["accuracy"] == [0.51, 0.6]
    assert document["outcomes"]["lowest loss"][0] > document["outcomes"]["lowest loss"][1]
    html = page.read_text()
    assert html.count("<svg") == 2, "loss and lr"
    assert "train.lr" in html
    assert not any(part in html for part in ("src=", "@import", 'href="http')), "it opens offline"
    text = _run("compare", "slow", "fast")
    assert "train.lr" in text
    assert "train.epochs" not in text
