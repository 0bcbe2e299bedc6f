"""Mixed precision on a network with two layers that 8 bits are known to ruin."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headway.compress import qdq
from headway.compress.quantize import MixedConfig, Quantize, QuantizeConfig
from headway.compress.step import StepContext
from headway.core.errors import TaskError
from headway.core.progress import Bar
from headway.export.onnx import OnnxExport
from headway.tasks import Metric, Task

RUINED = ("features.4", "features.5")  # the first writes what 8 bits cannot hold, and the second reads it


class Follows:
    """Keeps what was said and done; stops a piece of work after some of its units."""

    def __init__(self, stop: tuple[str, int] = ("", 0)) -> None:
        self.said: list[str] = []
        self.notes: list[str] = []
        self.stop = stop

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        follows = self

        class Counting:
            done = 0.0

            def advance(self, amount: float = 1, note: str = "") -> None:
                self.done += amount
                follows.notes += [note] if title == "sensitivity" and note else []
                if title == follows.stop[0] and self.done >= follows.stop[1]:
                    raise KeyboardInterrupt

        yield Counting()

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def ruined(trained: nn.Module, task: Task, tmp_path: Path) -> Path:
    """The trained network with some channels between two layers 3,000 times as large: in FP32 it answers the same."""
    writer, reader = (trained.get_submodule(name) for name in RUINED)
    assert isinstance(writer.bn, nn.BatchNorm2d)
    assert isinstance(reader.conv, nn.Conv2d)
    with torch.no_grad():
        writer.bn.weight[:4] *= 3000
        writer.bn.bias[:4] *= 3000
        reader.conv.weight[:, :4] /= 3000
    file = tmp_path / "ruined.onnx"
    OnnxExport().write(trained, task.parts.train.batch(np.arange(2))[0], task.output_names, file)
    return file


def config(**mixed: float) -> QuantizeConfig:
    return QuantizeConfig(calibration="minmax", mixed=MixedConfig.model_validate({"keep_accuracy": 0.97, **mixed}))


def test_the_layers_that_lose_most_are_found_and_the_target_is_met(
    ruined: Path, context: StepContext, accuracy: Callable[[Path], float], tmp_path: Path
) -> None:
    out, again, plain = tmp_path / "mixed.onnx", tmp_path / "again.onnx", tmp_path / "plain.onnx"
    Quantize(QuantizeConfig(calibration="minmax", keep_fp32=())).apply(ruined, plain, context)
    assert accuracy(plain) < 0.9 * accuracy(ruined)
    step = Quantize(config())
    record = json.loads(json.dumps(step.apply(ruined, out, context), allow_nan=False))
    story = record["mixed"]
    weighted = qdq.weighted_nodes(qdq.prepare(ruined))
    by_error = sorted(story["ranking"], key=lambda group: -group["error"])
    assert {node for group in by_error[:2] for node in group["nodes"]} == set(weighted[3:5])
    assert {name for group in by_error[:2] for name in group["layers"]} == {f"{name}.conv" for name in RUINED}
    assert (
        story["all_8_bit"]
        < story["demand"]
        <= next(t for t in story["tried"] if t["score"] >= story["demand"])["score"]
    )
    assert story["reached"]
    assert set(weighted[3:5]) <= set(record["form"]["float_nodes"])
    assert len(record["form"]["float_nodes"]) < len(weighted)
    assert accuracy(out) > 0.96 * accuracy(ruined)
    step.replay(ruined, again, record)
    assert again.read_bytes() == out.read_bytes()
    assert not list(context.folder.glob("*.onnx"))


def test_an_interrupted_search_goes_on_and_keeps_what_was_measured(
    ruined: Path, context: StepContext, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Quantize(config()).apply(ruined, tmp_path / "out.onnx", replace(context, progress=Follows(("sensitivity", 3))))
    kept = json.loads((context.folder / "sensitivity.json").read_text())["findings"]
    assert len(kept) == 3
    resumed = Follows()
    record = Quantize(config()).apply(ruined, tmp_path / "out.onnx", replace(context, progress=resumed))
    assert "sensitivity: going on after 3 of 7 groups" in resumed.said
    assert len(resumed.notes) == 4
    measured = {tuple(group["nodes"]): group["error"] for group in record["mixed"]["ranking"]}
    assert all(measured[tuple(finding["nodes"])] == finding["error"] for finding in kept)
    other = Follows()
    Quantize(config(rows=50)).apply(ruined, tmp_path / "out.onnx", replace(context, progress=other))
    assert not any("going on" in text for text in other.said), "figures of other rows were taken"


def test_a_short_budget_takes_layers_in_groups(ruined: Path, context: StepContext, tmp_path: Path) -> None:
    record = Quantize(config(minutes=1e-3)).apply(ruined, tmp_path / "out.onnx", context)
    story = record["mixed"]
    groups = [*(group["nodes"] for group in story["ranking"]), *story["unmeasured"]]
    assert len(groups) == 1
    assert len(groups[0]) == 7
    assert record["form"]["float_nodes"] == [], "what is left in 32 bits altogether is not quantized"


def test_a_target_out_of_reach_is_told(ruined: Path, context: StepContext, tmp_path: Path) -> None:
    told = Follows()
    record = Quantize(config(keep_accuracy=1.4)).apply(ruined, tmp_path / "out.onnx", replace(context, progress=told))
    assert not record["mixed"]["reached"]
    assert any("below the" in text for text in told.said)
    best = max(tried["score"] for tried in record["mixed"]["tried"])
    assert best > record["mixed"]["all_8_bit"]


def test_where_nothing_is_lost_everything_is_in_8_bits(
    trained: nn.Module, task: Task, context: StepContext, tmp_path: Path
) -> None:
    file = tmp_path / "sound.onnx"
    OnnxExport().write(trained, task.parts.train.batch(np.arange(2))[0], task.output_names, file)
    record = Quantize(config(keep_accuracy=0.9)).apply(file, tmp_path / "out.onnx", context)
    assert record["form"]["float_nodes"] == []
    assert [tried["groups"] for tried in record["mixed"]["tried"]] == [0]
    dynamic = QuantizeConfig(mode="dynamic", least_weights=0, mixed=MixedConfig(keep_accuracy=0.9))
    assert len(Quantize(dynamic).apply(file, tmp_path / "out.onnx", context)["mixed"]["ranking"]) == 1


def test_a_metric_of_zero_leaves_nothing_to_keep(ruined: Path, context: StepContext, tmp_path: Path) -> None:
    zero = Metric("zero", lambda outputs, targets: np.zeros(len(targets)), binary=False)
    with pytest.raises(TaskError, match="no share of zero can be kept"):
        Quantize(config()).apply(
            ruined, tmp_path / "out.onnx", replace(context, task=replace(context.task, metric=zero))
        )
