"""Networks that really go wrong, each in its own way, and one that does not."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headway.core.errors import TaskError
from headway.tasks import Arrays, Parts, Task
from headway.tasks.factory import build_model
from headway.tasks.images import digits
from headway.train.config import TrainConfig
from headway.train.history import History
from headway.train.loop import fit
from headway.train.monitor import Monitor, StepDone
from headway.train.result import TrainResult


def _config(policy: str = "warn", every: int = 1, **values: object) -> TrainConfig:
    base: dict[str, object] = {"epochs": 2, "batch_size": 32, "threads": 1, "device": "cpu", "precision": "fp32"}
    return TrainConfig.model_validate(base | {"health": {"policy": policy, "every": every}} | values)


def _task(model: Callable[[], nn.Module], rows: int = 640, **changes: Any) -> Task:
    values = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
    part = Arrays({"x": values}, (values[:, :4].sum(axis=1) > 0).astype(np.int64))
    return Task(parts=Parts(part, part, part, part), model=model, **changes)


def _mlp(*, layers: int = 2, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [16, *[32] * layers]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*hidden, nn.Linear(32, 2))


def _kinds(result: TrainResult) -> set[tuple[str, str]]:
    return {(finding["kind"], finding["layer"]) for finding in result.findings}


def test_a_sound_run_has_no_findings(task: Task) -> None:
    result = fit(build_model(task), task, _config(epochs=3))
    assert result.findings == ()
    assert result.skipped == 0
    assert [step for step, _ in result.norms] == list(range(1, result.steps + 1))
    assert all(norm > 0 for _, norm in result.norms)


def test_watching_changes_no_bit(task: Task) -> None:
    watched, alone = build_model(task, seed=1), build_model(task, seed=1)
    fit(watched, task, _config("warn"))
    fit(alone, task, _config("off"))
    for name, value in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


def _spiked() -> Task:
    """A batch whose loss is a million times too large, once, at the twentieth step."""
    calls = iter(range(1_000_000))

    def loss(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        value = nn.functional.cross_entropy(outputs["logits"], targets)
        return value * (1e6 if next(calls) == 20 else 1)  # call 0 looks at the initialisation

    return _task(_mlp, loss=loss)


def test_a_gradient_that_explodes_is_named_with_its_step(told: Any) -> None:
    task = _spiked()
    result = fit(build_model(task), task, _config(), progress=told)
    (finding,) = result.findings
    assert (finding["kind"], finding["step"]) == ("exploding", 20)
    assert finding["layer"] in dict(_mlp().named_parameters())
    assert finding["figure"] > 1e4
    assert told.said == [
        f"{finding['layer']}, step 20: {finding['message']}\n  Try {finding['advice']}.",
    ]


def test_skip_leaves_the_step_out(told: Any) -> None:
    seen: list[StepDone] = []

    class Watch(Monitor):
        def after_step(self, done: StepDone) -> None:
            seen.append(done)

    task = _spiked()
    values = {"optimizer": "sgd", "clip": None, "lr": 0.01}
    model, calm = build_model(task), build_model(task)
    result = fit(model, task, _config("skip", **values), monitors=[Watch()])
    assert result.skipped == 1
    assert [done.step for done in seen if done.skipped] == [20]
    plain = _task(_mlp)
    fit(calm, plain, _config(**values))
    for name, value in calm.state_dict().items():
        assert (model.state_dict()[name] - value).abs().max() < 0.05, name


def test_stop_ends_the_run_before_the_step() -> None:
    task = _spiked()
    with pytest.raises(TaskError, match="times as large") as caught:
        fit(build_model(task), task, _config("stop"))
    assert caught.value.where is not None
    assert caught.value.where.endswith("step 20")
    assert "train.clip" in str(caught.value.remedy)


def _diverging() -> Task:
    return _task(_mlp, loss=lambda outputs, targets: outputs["logits"].square().mean() * 1e4)


def test_a_rate_far_too_high_names_the_layer() -> None:
    task = _diverging()
    with pytest.raises(TaskError, match=r"no longer finite|not finite") as caught:
        fit(build_model(task), task, _config(epochs=20, lr=1e4, optimizer="sgd", clip=None))
    assert "step " in str(caught.value.where)
    assert "train.lr (now 10000)" in str(caught.value.remedy)


def test_skipping_ends_when_nothing_is_finite_any_more() -> None:
    task = _diverging()
    with pytest.raises(TaskError, match=r"20 steps in a row|every step of the epoch"):
        fit(build_model(task), task, _config("skip", epochs=50, lr=1e6, optimizer="sgd", clip=None, warmup=0))


def _dead() -> nn.Module:
    model = _mlp()
    nn.init.constant_(model[0].bias, -10)  # type: ignore[arg-type]
    return model


def test_a_relu_that_never_opens_is_dead_before_and_during_training() -> None:
    task = _task(_dead)
    result = fit(build_model(task), task, _config())
    assert ("dead", "1") in _kinds(result)  # its outputs, before the first step
    during = next(finding for finding in result.findings if finding["layer"] == "0")
    assert (during["kind"], during["figure"]) == ("dead", 1.0)
    assert during["step"] == 8


def test_dead_units_are_seen_through_functions_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 2)
            nn.init.constant_(self.hidden.bias[:10], -50)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(torch.relu(self.hidden(x)))
            return out

    task = _task(Net)
    with torch.no_grad():
        model = build_model(task)
    result = fit(model, task, _config())
    finding = next(finding for finding in result.findings if finding["layer"] == "hidden")
    assert finding["figure"] == pytest.approx(10 / 32)


def test_gradients_that_vanish_towards_the_first_layers() -> None:
    task = _task(lambda: _mlp(layers=14, activation=nn.Sigmoid))
    result = fit(build_model(task), task, _config())
    vanished = {layer for kind, layer in _kinds(result) if kind == "vanishing"}
    assert "0.weight" in vanished
    assert "28.weight" not in vanished


def _changed(change: Callable[[Any], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = _mlp(layers=6)
        with torch.no_grad():
            change(model)
        return model

    return make


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (_changed(lambda m: m[2].weight.zero_()), ("constant", "2.weight")),
        (_changed(lambda m: m[2].weight.mul_(1e4)), ("scale", "2")),
        (_changed(lambda m: [m[i].weight.mul_(20) for i in range(0, 12, 2)]), ("scale", "12")),
        (
            _changed(lambda m: [(m[i].weight.mul_(0.1), m[i].bias.zero_()) for i in range(0, 12, 2)]),
            ("scale", "12"),
        ),
        (lambda: _saturated(), ("saturated", "1")),
    ],
)
def test_odd_initialisation_is_found_before_the_first_step(
    model: Callable[[], nn.Module], expected: tuple[str, str]
) -> None:
    task = _task(model)
    result = fit(build_model(task), task, _config(epochs=0.1))
    assert expected in _kinds(result)
    assert all(finding["step"] == 0 for finding in result.findings)
    with pytest.raises(TaskError) as caught:
        fit(build_model(task), task, _config("stop"))
    assert "before the first step" in str(caught.value.where)


def _saturated() -> nn.Module:
    model = _mlp(activation=nn.Tanh)
    with torch.no_grad():
        model[0].weight.mul_(30)  # type: ignore[operator]
    return model


def test_the_probe_leaves_batch_norm_as_it_was(task: Task) -> None:
    from headway.train.probe import probe

    model = build_model(task).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs, _ = task.parts.train.batch(np.arange(32))
    probe(model, lambda: model(torch.from_numpy(inputs["image"])))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_resumed_run_keeps_its_findings(tmp_path: Any) -> None:
    task = _task(_dead)
    first = fit(build_model(task), task, _config(), folder=tmp_path)
    again = fit(build_model(task), task, _config(), folder=tmp_path)
    assert again.findings == first.findings
    assert again.norms == first.norms


@given(st.lists(st.floats(0.5, 2), min_size=8, max_size=80), st.floats(1e3, 1e30))
def test_what_stands_out_is_found_and_what_varies_is_not(values: list[float], spike: float) -> None:
    history = History()
    assert not any([history.jump(value) for value in values])  # noqa: C419  (each is told)
    ratio = history.jump(spike)
    assert ratio == 0 or spike / 2.01 <= ratio <= spike / 0.49
    # Six robust deviations of what lies between 0.5 and 2 are at most e^6.2.
    assert ratio > 0 or spike < 2 * np.exp(6 * 1.4826 * np.log(4))


def test_digits_train_without_findings_at_the_defaults() -> None:
    task = digits(width=8)
    result = fit(build_model(task), task, TrainConfig(epochs=4, threads=1))
    assert result.findings == ()
