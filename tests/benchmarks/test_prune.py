"""What the benchmarks of ResNet-18 make of their figures, and their small settings from training to the section."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from benchmarks.prune import ALONE, FULL, LINES, PROMISED, Setting, best, section
from tests.tasks.idx_files import write

from benchmarks import prune, resnet
from headway.tasks.images import fashion_mnist


def curves() -> dict[str, dict[str, list[float]]]:
    found = {name: {f"{keep}": [0.5, 0.7] for keep in PROMISED} for name in LINES}
    found["variance"]["0.4"] = [0.6, 0.9]
    found[ALONE]["0.4"] = [1.0, 1.0]
    return found


def test_the_importance_is_chosen_by_the_promised_shares_and_never_another_tool() -> None:
    assert best(curves()) == "variance"


def test_the_section_names_every_line_seed_and_interval() -> None:
    row = {"line": "taylor", "keep": 0.6, "seed": 2, "value": 0.9, "kept_interval": [0.985, 1], "faster": [2, 2.5, 3]}
    text = section(replace(FULL, keeps=PROMISED), curves(), [0.91, 0.93], [row], [1, 2], 90.2)
    assert "--seeds 1 2`, in 90 minutes" in text
    assert "| variance | 0.6000 (0.5000-0.7000) | 0.7500 (0.6000-0.9000) |" in text
    assert "| taylor | 60% | 2 | 0.9000 | 98.50% | 2.50 (2.00-3.00) |" in text
    assert text.count("  line [") == len(LINES)
    assert "x-axis [60, 40]" in text


@pytest.mark.slow
def test_the_small_setting_prunes_every_line_and_its_networks_are_measured_in_8_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", rows=120)
    made_up = partial(fashion_mnist, str(tmp_path / "data"), calibration_rows=16)
    monkeypatch.setattr(prune, "fashion_mnist", made_up)
    for module in (prune, resnet):
        monkeypatch.setattr(module, "SMALL", Setting(4, 80, 1, 1, PROMISED, 24))
        monkeypatch.setattr(module, "LINES", ("taylor", ALONE))
        monkeypatch.setattr(sys, "argv", ["", "--small", "--work", str(tmp_path / "work")])
        module.main()
    text = capsys.readouterr().out
    assert all(f"| {name} | 40% | 0 |" in text for name in (ALONE, "taylor"))
    lines = (resnet.FP32, resnet.WHOLE, resnet.eight(0.6), resnet.eight(0.4), resnet.ORT, resnet.DYNAMIC, ALONE)
    assert all(f"| {line} | " in text for line in lines)
