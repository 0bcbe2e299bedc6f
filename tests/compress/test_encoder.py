"""Steps on an encoder whose inputs vary in length: what is pruned, taught and quantized, and that it still answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tasks import films

from headway.compress.channels import Group
from headway.compress.graph import find_groups
from headway.compress.prune import Prune, PruneConfig
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.step import StepContext
from headway.core.machine import here
from headway.core.modules import forward
from headway.core.progress import SILENT
from headway.export.onnx import OnnxExport
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.texts import texts
from headway.train.config import TrainConfig


@pytest.fixture
def task(tmp_path: Path) -> Task:
    torch.set_num_threads(1)
    return texts(**films.make(tmp_path, rows=120))


def _context(task: Task, folder: Path) -> StepContext:
    return StepContext(task, TrainConfig(epochs=1, batch_size=32, threads=1), here(), folder, SILENT)


def test_heads_and_feed_forward_widths_can_go(task: Task) -> None:
    model = build_model(task).eval()
    for name, weight in model.named_parameters():
        if "query.weight" in name or "key.weight" in name:
            weight.data *= 50  # at random every token is attended to alike, whatever the heads
    inputs = {name: torch.from_numpy(value) for name, value in task.parts.train.batch(np.arange(2))[0].items()}

    def run(module: torch.nn.Module) -> tuple[torch.Tensor, ...]:
        return tuple(forward(module, inputs, task.output_names).values())

    found = find_groups(model, run)
    assert _layers(group for group in found if group.heads) == {(0, 2), (1, 2)}
    assert {(0, 64), (1, 64)} <= _layers(group for group in found if not group.heads)


def _layers(groups: Any) -> set[tuple[int, int]]:
    """Number of the layer, and the channels (or heads) of each group that belongs to one."""

    def number(group: Group) -> int:
        return int(group.name.split("encoder.layer.")[1].split(".")[0])

    return {(number(group), group.channels) for group in groups if "encoder.layer." in group.name}


def test_a_pruned_encoder_is_rebuilt_and_exported_for_any_length(task: Task, tmp_path: Path) -> None:
    step = Prune(PruneConfig(keep=0.7, every=1, finetune_epochs=0, align=1))
    model, record = step.apply(build_model(task).eval(), _context(task, tmp_path))
    again = step.replay(build_model(task), record)
    again.load_state_dict(model.state_dict())
    example, _ = task.parts.calibration.batch(np.arange(2))
    file = tmp_path / "pruned.onnx"
    OnnxExport().write(again, example, task.output_names, file, task.varying)
    session = OnnxRuntime().load(file)
    part = task.parts.train
    for rows in (np.arange(1), np.arange(7)):
        inputs, _ = part.batch(rows)
        with torch.inference_mode():
            want = model.eval()(*map(torch.from_numpy, inputs.values())).numpy()
        np.testing.assert_allclose(session.run(inputs)["logits"], want, rtol=1e-3, atol=1e-5)
    session.close()


def test_static_ranges_hold_no_padding(task: Task, tmp_path: Path) -> None:
    """A text among longer ones is calibrated as it is alone: the ranges do not depend on who stands beside it."""
    file = tmp_path / "model.onnx"
    example, _ = task.parts.calibration.batch(np.arange(2))
    OnnxExport().write(build_model(task).eval(), example, task.output_names, file, task.varying)
    seen: list[tuple[int, ...]] = []
    part = task.parts.calibration
    batch = part.batch
    part.batch = lambda rows: seen.append(batch(rows)[0]["input_ids"].shape) or batch(rows)  # type: ignore[method-assign, func-returns-value]
    step = Quantize(QuantizeConfig(mode="static", calibration="minmax", keep_fp32=()))
    record = step.apply(file, tmp_path / "int8.onnx", _context(task, tmp_path))
    assert record["ranges"]
    assert {rows for rows, _ in seen} == {1}
    session = OnnxRuntime().load(tmp_path / "int8.onnx")
    assert session.run(task.parts.train.batch(np.arange(5))[0])["logits"].shape == (5, 2)
    session.close()
