"""What the benchmark on solar cells makes of its figures."""

from dataclasses import replace

import numpy as np
from benchmarks.solar.__main__ import chosen
from benchmarks.solar.fold import FP32, FULL, PLAIN
from benchmarks.solar.report import Line, section, verdict

from headway.compress.qdq import Fusion
from headway.measure.accuracy import compare


def line(lost: int, gained: int = 0, rows: int = 2_000, speed: float = 2.0) -> Line:
    base, have = np.ones(rows), np.ones(rows)
    base[: rows // 5] = have[: rows // 5] = 0
    have[:gained] = 1
    have[rows - lost :] = 0
    accuracy = compare(base, have, metric="accuracy", confidence=0.95)
    made = Fusion(53, 0, 4)
    shares = (accuracy.value, accuracy.value)
    return Line(rows, 0.8, float(base.mean()), accuracy, shares, 0.9, (speed, speed, speed), 3.0, 2.9, 2.5, made)


def test_the_most_accurate_on_selection_is_chosen_and_then_the_nearest() -> None:
    rows = {"a": [np.array([1.0, 0.0])], "b": [np.array([1.0, 1.0])], "c": [np.array([1.0]), np.array([1.0])]}
    assert chosen(rows, {"a": 0.0, "b": 0.2, "c": 0.1}) == "c"


def test_one_point_is_kept_lost_or_not_proven() -> None:
    assert [verdict(line(lost)) for lost in (4, 22, 60)] == ["yes", "not proven either way", "no"]


def test_the_section_names_lines_layers_and_what_helps() -> None:
    lines = {FP32: line(0), PLAIN: line(60), "entropy": line(3, 1), "NNCF, OpenVINO": replace(line(2), layers=None)}
    ranking = [
        {"layers": ["features.1.conv.0.0"], "error": 0.5, "weight_error": 0.2},
        {"layers": ["features.2.conv.0.0"], "error": 0.7, "weight_error": 0.01},
    ]
    text = section(FULL, lines, "entropy", ranking, ["pruned"], 12)
    assert "`python -m benchmarks.solar --skip 'pruned'`, in 12 minutes" in text
    assert "| **entropy** | 0.8000 | 0.7990 | 0.10 |" in text
    assert "Within 1 point: **yes** for entropy" in text
    assert "one scale a tensor: no (3.00" in text
    assert text.index("features.2.conv.0.0 | 70.0% | 1.0%") < text.index("features.1.conv.0.0 | 50.0% | 20.0%")
