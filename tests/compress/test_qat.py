"""Fake quantization: what it rounds is what ONNX Runtime rounds, and training under it wins back what static loses."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headway.compress.qat import Qat, QatConfig
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.simulate import Simulated, fake, fake_weight, find_points
from headway.compress.step import ModuleStep, StepContext
from headway.core.errors import TaskError
from headway.export.onnx import OnnxExport
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.tasks import Task
from headway.train.predict import predict

ALL = QuantizeConfig(keep_fp32=(), calibration="minmax", weight_range="full")


@given(st.floats(-1e3, 0), st.floats(0, 1e3), st.integers(0, 2**32 - 1))
def test_rounding_has_256_levels_an_exact_zero_and_slope_one_in_range(low: float, high: float, seed: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).normal(0, 300, 500).astype(np.float32)).requires_grad_()
    rounded = fake(values, low, high)
    torch.autograd.backward(rounded.sum())
    assert values.grad is not None
    step = (high - low) / 255
    if step < 1e-3:
        return
    assert len(set(rounded.tolist())) <= 256
    assert fake(torch.zeros(1), low, high).item() == 0
    inside = (values > low + step) & (values < high - step)
    assert (values.grad[inside] == 1).all()
    assert (values.grad[(values < low - step) | (values > high + step)] == 0).all()
    assert ((rounded - values).detach().abs()[inside] <= step * 0.501).all()


def test_folding_a_norm_into_the_weights_changes_nothing_that_is_rounded() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, factor = torch.randn(8, 4, 3, 3, generator=draw), torch.randn(8, 1, 1, 1, generator=draw)
    torch.testing.assert_close(fake_weight(weight * factor, 64), fake_weight(weight, 64) * factor)
    assert all(len(channel.unique()) <= 129 for channel in fake_weight(torch.randn(2, 5000), 64))


class Block(nn.Module):
    """What a static graph is made of: residual sums, functional calls, a ReLU in place, norms, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.one, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        y = torch.relu(self.norm(self.one(x)) + x)
        y = nn.functional.max_pool2d(torch.cat([self.two(y), x], 1), 2)
        return self.head(self.drop(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1)))


def batches(task: Task) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    return lambda: iter([task.parts.calibration.batch(np.arange(len(task.parts.calibration)))[0]])


def simulated(model: nn.Module, task: Task, keep: tuple[str, ...], weight_range: str = "full") -> Simulated:
    image = torch.from_numpy(task.parts.train.batch(np.arange(2))[0]["image"])
    found = Simulated(model.eval(), find_points(lambda: model(image), keep), {}, weight_range)
    found.calibrate(batches(task), task.output_names, "minmax", 100)
    return found


@pytest.mark.parametrize("keep", [(), ("first", "last")])
@pytest.mark.parametrize("weight_range", ["full", "reduced"])
def test_the_simulation_answers_as_the_runtime_does(
    task: Task, context: StepContext, tmp_path: Path, keep: tuple[str, ...], weight_range: str
) -> None:
    torch.manual_seed(0)
    model = Block()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.uniform_(module.running_var, 0.5, 2)
    expected, _ = predict(simulated(model, task, keep, weight_range), task.parts.test, task.output_names)
    plain, _ = predict(model, task.parts.test, task.output_names)
    inputs, _ = task.parts.test.batch(np.arange(len(task.parts.test)))
    OnnxExport().write(model, {"image": inputs["image"][:2]}, task.output_names, tmp_path / "fp32.onnx")
    config = ALL.model_copy(update={"keep_fp32": keep, "weight_range": weight_range})
    Quantize(config).apply(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", context)
    answered = OnnxRuntime().load(tmp_path / "int8.onnx").run(inputs)["logits"]
    rounding = np.abs(plain["logits"] - expected["logits"]).mean()
    assert rounding > 0
    assert np.abs(answered - expected["logits"]).mean() < 0.25 * rounding, "what is simulated is most of what happens"


@pytest.fixture
def uneven(trained: nn.Module) -> nn.Module:
    """The trained network with four channels between two layers 300 times as large; in FP32 it answers the same."""
    writer, reader = trained.get_submodule("features.4.bn"), trained.get_submodule("features.5.conv")
    assert isinstance(writer, nn.BatchNorm2d)
    assert isinstance(reader, nn.Conv2d)
    with torch.no_grad():
        writer.weight[:4] *= 300
        writer.bias[:4] *= 300
        reader.weight[:, :4] /= 300
    return trained


def shipped(model: nn.Module, task: Task, context: StepContext, folder: Path) -> Path:
    """Through export and quantization, as a recipe goes."""
    OnnxExport().write(model, task.parts.train.batch(np.arange(2))[0], task.output_names, folder / "fp32.onnx")
    Quantize(ALL).apply(folder / "fp32.onnx", folder / "int8.onnx", context)
    return folder / "int8.onnx"


def test_training_wins_back_what_static_loses_and_the_runtime_confirms_the_simulation(
    uneven: nn.Module,
    task: Task,
    context: StepContext,
    accuracy: Callable[[Path], float],
    tmp_path: Path,
) -> None:
    context = replace(context, following=ALL)
    static = accuracy(shipped(uneven, task, context, tmp_path))
    step: ModuleStep = Qat(QatConfig(epochs=2, lr=0.3))
    model, record = step.apply(uneven, context)
    assert json.loads(json.dumps(record)) == record
    assert not model.training
    out = shipped(model, task, context, tmp_path)
    assert accuracy(out) > max(0.85, static + 0.15)
    assert record["simulated"]["after"] > record["simulated"]["before"]
    selected = replace(task, parts=replace(task.parts, test=task.parts.selection))
    inputs, targets = selected.parts.test.batch(np.arange(len(selected.parts.test)))
    answered = OnnxRuntime().load(out).run(inputs)
    assert task.metric.rows(answered, targets).mean() == pytest.approx(record["simulated"]["after"], abs=0.01)

    assert task.model is not None
    rebuilt = step.replay(task.model(), record)
    rebuilt.load_state_dict(model.state_dict())
    image = torch.from_numpy(inputs["image"])
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(image), model(image))


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    task: Task, weights: dict[str, torch.Tensor], context: StepContext, tmp_path: Path
) -> None:
    def train(folder: Path, stop: int | None) -> dict[str, torch.Tensor]:
        assert task.model is not None
        model, calls = task.model(), 0
        model.load_state_dict(weights)

        def loss(outputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return nn.functional.cross_entropy(outputs["logits"], targets.long())

        Qat(QatConfig(epochs=2)).apply(model, replace(context, task=replace(task, loss=loss), folder=folder))
        return model.state_dict()

    straight = train(tmp_path / "straight", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "again", 20)
    resumed = train(tmp_path / "again", None)
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    assert all(torch.equal(straight[n], weights[n]) for n in straight if "running" in n), "statistics stay"
    assert not all(torch.equal(straight[n], weights[n]) for n in straight)


def test_what_cannot_be_simulated_is_named(task: Task, context: StepContext) -> None:
    with pytest.raises(TaskError, match="no convolution or linear layer is left"):
        Qat().apply(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), context)

    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
            self.head = nn.Linear(64, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = image.flatten(1)
            for layer in self.layers:
                x = layer(x)
                x = x if self.training else torch.relu(x)
            return self.head(x)

    with pytest.raises(TaskError, match="same functions in training and in evaluation"):
        Qat().apply(Fickle(), context)


def test_settings_of_quantize_that_do_not_fit() -> None:
    assert Qat.refuses(QuantizeConfig()) == ""
    assert "static" in Qat.refuses(QuantizeConfig(mode="dynamic"))
    assert "per_channel" in Qat.refuses(QuantizeConfig(per_channel=False))
