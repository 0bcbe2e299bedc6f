"""What is said of a run: ratios within rounds, and goals that are reached or not."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from benchmarks.serving.load import Load
from benchmarks.serving.report import DIGITS_RATE, Found, Level, report

from benchmarks import results


def load(rate: float, p99_ms: float | None = 5.0, *, errors: int = 0, own_us: float = 100) -> Load:
    requests = int(rate)
    return Load(rate, 1.0, p99_ms, errors, requests * (own_us + 170) / 1e6, requests, requests * 170 / 1e6)


def found(rates: dict[str, Iterable[float]]) -> Found:
    run = Found(rounds=3, seconds=2)
    for callers in (1, 8, 32, 128):
        for name, values in rates.items():
            p99 = {"headway": 4.0, "triton": 8.0}.get(name, 20.0)
            run.loads[name, Level(callers=callers)] = [load(rate, p99) for rate in values]
    run.loads["digits", Level(rate=DIGITS_RATE)] = [load(3000, 9.0, errors=errors) for errors in (0, 0, 1)]
    run.loads["large", Level(callers=32)] = [load(rate) for rate in (380, 395, 398)]
    run.bare_session = [{1: 300.0, 8: 400.0, 32: 350.0}] * 3
    return run


def goal(text: str, line: str) -> tuple[str, str]:
    (match,) = re.findall(rf"^\| {re.escape(line)} \| (.*) \| (.*) \|$", text, re.MULTILINE)
    return match


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was twice as fast in the second round, for both: the ratio is 1.5 in each."""
    run = found({"headway": (1500, 3000, 1500), "triton": (1000, 2000, 1000)})
    assert run.ratios("triton", Level(callers=8)) == [1.5, 1.5, 1.5]
    text = report(run)
    assert goal(text, "Triton's throughput, 32 callers: at least 1.3x") == ("1.50x (1.50x-1.50x)", "yes")
    assert goal(text, "Triton's p99, 8 callers: below 1x") == ("0.50x (0.50x-0.50x)", "yes")


def test_a_goal_is_reached_or_not_or_within_the_limits() -> None:
    run = found({"headway": (1200, 1350, 1400), "triton": (1000, 1000, 1000), "fastapi": (900, 900, 900)})
    text = report(run)
    assert goal(text, "Triton's throughput, 32 callers: at least 1.3x")[1] == "yes, but for the limit"
    assert goal(text, "FastAPI's throughput, 32 callers: at least 2x") == ("1.50x (1.33x-1.56x)", "**no**")
    assert goal(text, "LitServe's throughput, 32 callers: at least 10x") == ("", "not measured")


def test_own_time_is_what_the_model_did_not_take() -> None:
    assert found({"headway": (1000, 1000, 1000)}).own_us(Level(callers=1)) == pytest.approx([100, 100, 100])


def test_the_bare_session_is_taken_at_its_best_batch() -> None:
    run = found({"headway": (1000, 1000, 1000)})
    assert run.best_batch() == 8
    line = "2.5 ms a row, 32 callers: at least 90% of the bare session (batch 8)"
    assert goal(report(run), line) == ("98.8% (95.0%-99.5%)", "yes")


def test_a_rate_with_errors_is_not_borne() -> None:
    line = f"digits, {DIGITS_RATE:,} arrivals/s: p99 below 50 ms, no errors"
    assert goal(report(found({"headway": (1000, 1000, 1000)})), line)[1] == "yes, but for the limit"


def test_a_server_that_is_left_out_is_named_with_the_reason() -> None:
    run = found({"headway": (1000, 1000, 1000)})
    run.left_out["ray"] = "its environment cannot be made: exit code 1"
    assert "- Ray Serve: **left out**: its environment cannot be made: exit code 1" in report(run)


def test_each_command_writes_its_own_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\n<!-- begin a -->\nold\n<!-- end a -->\n", encoding="utf-8")
    monkeypatch.setattr(results, "RESULTS", page)
    results.write("b", "second")
    results.write("a", r"new \1")
    assert page.read_text(encoding="utf-8") == (
        "# Results\n\n<!-- begin a -->\nnew \\1\n<!-- end a -->\n\n<!-- begin b -->\nsecond\n<!-- end b -->\n"
    )
