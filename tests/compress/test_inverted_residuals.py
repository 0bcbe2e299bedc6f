"""Depthwise convolutions, ReLU6 and sums without a rectifier: what MobileNets are made of."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from headway.compress import qdq
from headway.compress.prune import Prune, PruneConfig
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.sensitivity import weight_error
from headway.compress.step import StepContext
from headway.core.machine import here
from headway.core.progress import SILENT
from headway.export.onnx import OnnxExport
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.mobilenet import InvertedResidual
from headway.tasks.parts import split
from headway.train.config import TrainConfig


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [InvertedResidual(*shape) for shape in ((3, 16, 2, 6), (16, 16, 1, 6), (16, 24, 2, 6), (24, 24, 1, 6))]
        self.blocks, self.classifier = nn.Sequential(*blocks), nn.Linear(24, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.blocks(image).mean((2, 3)))
        return logits


@pytest.fixture
def where(tmp_path: Path) -> StepContext:
    draw = np.random.default_rng(0)
    images, targets = draw.normal(size=(96, 3, 16, 16)).astype(np.float32), draw.integers(0, 2, 96)
    images[targets == 1] += 0.5
    task = Task(parts=split({"image": images}, targets), model=Small)
    train = TrainConfig(epochs=1, batch_size=16, threads=1, precision="fp32")
    return StepContext(task, train, here(), tmp_path / "work", SILENT)


def exported(model: nn.Module, context: StepContext, file: Path) -> Path:
    OnnxExport().write(model.eval(), context.task.parts.train.batch(np.arange(2))[0], ("logits",), file)
    return file


def test_everything_runs_in_8_bits_and_nothing_is_converted_between(where: StepContext, tmp_path: Path) -> None:
    graph = exported(build_model(where.task), where, tmp_path / "fp32.onnx")
    Quantize(QuantizeConfig(keep_fp32=())).apply(graph, tmp_path / "int8.onnx", where)
    made = qdq.fusion(tmp_path / "int8.onnx")
    assert (made.integer, made.floating) == (13, 0)
    assert made.conversions <= 4  # the input, around the mean, and the logits


def test_inverted_residuals_are_pruned(where: StepContext) -> None:
    config = PruneConfig(keep=0.6, every=0.2, finetune_epochs=0.5, align=4)
    model, record = Prune(config).apply(build_model(where.task), where)
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)
    assert record["share"] == pytest.approx(0.6, abs=0.03)
    replayed = Prune().replay(build_model(where.task), record)
    replayed.load_state_dict(model.state_dict())
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 2)


def test_a_layers_weights_tell_whether_one_scale_is_enough() -> None:
    values = np.random.default_rng(0).normal(size=(32, 1, 3, 3)).astype(np.float32)
    values *= np.geomspace(1, 1000, 32, dtype=np.float32).reshape(-1, 1, 1, 1)
    node = helper.make_node("Conv", ["x", "model.features.1.0.weight"], ["y"], name="conv", group=32)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, 8, 8]) for name in ("x", "y")]
    held = [numpy_helper.from_array(values, "model.features.1.0.weight")]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], held))
    forms = {each: qdq.Form("static", "full", "u8", each, ()) for each in (True, False)}
    name, each = weight_error(model, "conv", forms[True])
    assert name == "features.1.0"
    assert each < 0.01
    assert weight_error(model, "conv", forms[False])[1] > 0.2
