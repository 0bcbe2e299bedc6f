"""Whether a run is well: gradients that explode, vanish or are not finite, units that are dead, odd initialisation.

The norm of the whole gradient is judged at every step, for the loop needs it anyway. Every `every` steps each tensor
is looked at too, which costs one pass over weights and gradients and one transfer from the device.

Units are counted as dead by their gradients and not by their outputs: one whose activation is always 0 gets none,
whichever function made the zero, so no hook has to stand in the way of a step.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from headway.core.errors import DataError, HeadwayError, TaskError
from headway.core.progress import Progress
from headway.train.config import HealthConfig
from headway.train.history import History
from headway.train.monitor import Finding, Monitor, StepDone
from headway.train.probe import probe
from headway.train.result import Epoch
from headway.train.tensor import local

_WINDOW = 8  # looks in a row before a tensor is said to vanish or a unit to be dead
_VANISHED = 1e-6  # of the largest tensor's root mean square; FP32 resolves 1.2e-7
_DEAD = 0.25  # of a layer's units
_SKIPS = 20  # steps left out in a row
_NORMS = 400  # points of the picture


class Health(Monitor):
    """Watches one run, and passes on to other monitors what happens in it.

    Args:
        config: policy, and how often every tensor is looked at.
        progress: told of each finding.
        others: monitors that hear everything, and what this one measures and finds.
    """

    def __init__(self, config: HealthConfig, progress: Progress, others: Sequence[Monitor] = ()) -> None:
        self.findings: list[Finding] = []
        self.norms: list[tuple[int, float]] = []  # (step, norm of the whole gradient)
        self.skipped = 0
        self._config, self._progress, self._others = config, progress, others
        self._whole = History()
        self._in_a_row = 0

    def started(self, model: nn.Module, step: int, forward: Callable[[], object]) -> None:
        """Look at the initialisation, where nothing has been trained yet."""
        for other in self._others:
            other.started(model, step, forward)
        self._model, self._tensors = model, _Tensors(model)
        if step == 0 and self._config.policy != "off":
            for finding in probe(model, forward):
                self._report(finding)

    def after_backward(self, step: int, loss: float, norm: float) -> bool:
        """Judge the gradients; True where the policy leaves this step out.

        Raises:
            TaskError: a finding under the policy `stop`, or too many steps left out one after the other.
        """
        leave = any([other.after_backward(step, loss, norm) for other in self._others])  # noqa: C419  (each is asked)
        return (self._judge(step, norm) if self._config.policy != "off" else False) or leave

    def after_step(self, done: StepDone) -> None:
        """Count what is left out in a row.

        Raises:
            TaskError: too many.
        """
        for other in self._others:
            other.after_step(done)
        self.skipped += done.skipped
        self._in_a_row = self._in_a_row + 1 if done.skipped else 0
        if self._in_a_row >= _SKIPS:
            raise TaskError(
                f"{_SKIPS} steps in a row had to be left out",
                where=f"step {done.step}",
                remedy="Try a smaller train.lr or a longer train.warmup.",
            )

    def after_epoch(self, step: int, epoch: Epoch) -> None:
        """Pass it on."""
        for other in self._others:
            other.after_epoch(step, epoch)

    def leaves_out(self, step: int, error: HeadwayError) -> bool:
        """Whether a step whose loss or gradient is not finite, as `error` says, is left out instead of ending the run.

        Data that is not finite always ends it.
        """
        layer = (not_finite(self._model) or ["the loss"])[0]
        self._keep(Finding("not finite", layer, step + 1, 0.0, error.message, error.remedy or ""))
        return self._config.policy == "skip" and not isinstance(error, DataError)

    def state(self) -> dict[str, Any]:
        """Findings, and what later judgements of the whole gradient rest on."""
        return {
            "findings": [finding.document() for finding in self.findings],
            "norms": self.norms,
            "skipped": self.skipped,
            "whole": list(self._whole.logs),
            "others": [other.state() for other in self._others],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on; what is known of single tensors is gathered anew."""
        if not state:
            return  # an older checkpoint
        for other, kept in zip(self._others, state["others"], strict=False):
            other.restore(kept)
        self.findings = [Finding(**finding) for finding in state["findings"]]
        self.norms = [(step, norm) for step, norm in state["norms"]]
        self.skipped = state["skipped"]
        self._whole = History(state["whole"])

    def _judge(self, step: int, norm: float) -> bool:
        number, due = step + 1, step % self._config.every == 0
        jump = self._whole.jump(norm)
        if not (jump or due):
            return False
        look = self._tensors.look()
        if due:
            self._note(number, norm)
            for other in self._others:
                other.measured(number, look)
            for finding in self._tensors.judge(number):
                self._report(finding)
        if jump:
            self._report(self._exploding(number, jump, look))
        return jump > 0 and self._config.policy == "skip"

    def _exploding(self, number: int, jump: float, look: dict[str, tuple[float, float, float]]) -> Finding:
        worst = self._tensors.worst(look)
        norm = look[worst][0]
        message = f"the gradient is {jump:,.0f} times as large as it was of late, most of it here (norm {norm:.3g})"
        advice = "a smaller train.lr, a longer train.warmup, train.clip: 1.0, or train.health.policy: skip"
        return Finding("exploding", worst, number, jump, message, advice)

    def _note(self, number: int, norm: float) -> None:
        self.norms.append((number, norm))
        if len(self.norms) > _NORMS:
            self.norms = self.norms[::2]

    def _report(self, finding: Finding) -> None:
        if not self._keep(finding):
            return
        if self._config.policy == "stop":
            raise TaskError(finding.message, where=_place(finding), remedy=f"Try {finding.advice}.")
        self._progress.say(f"{_place(finding)}: {finding.message}\n  Try {finding.advice}.")

    def _keep(self, finding: Finding) -> bool:
        """Whether it is news: once a layer and kind."""
        if any((one.kind, one.layer) == (finding.kind, finding.layer) for one in self.findings):
            return False
        self.findings.append(finding)
        for other in self._others:
            other.found(finding)
        return True


class _Tensors:
    """Everything that learns in a model, and what was seen of it."""

    def __init__(self, model: nn.Module) -> None:
        self._learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        weights = {id(module.weight): name for name, module in model.named_modules() if _has_units(module)}
        self._units = {name: weights[id(p)] for name, p in self._learning.items() if id(p) in weights}
        self._silent: dict[str, torch.Tensor] = {}  # looks in a row without any gradient, [units]
        self._shares: dict[str, deque[float]] = {}  # of the largest tensor's root mean square gradient
        self._dead: dict[str, float] = {}
        self._before: dict[str, History] = {name: History() for name in self._learning}

    def look(self) -> dict[str, tuple[float, float, float]]:
        """(Gradient's norm, mean, standard deviation) of each tensor that has a gradient."""
        named = {name: p for name, p in self._learning.items() if p.grad is not None}
        gradients = [p.grad.detach() for p in named.values() if p.grad is not None]
        values = [p.detach() for p in named.values()]
        units = {name: p.grad for name, p in named.items() if name in self._units and p.grad is not None}
        for name, gradient in units.items():
            none = gradient.detach().abs().amax(tuple(range(1, gradient.dim()))) == 0  # 10 times as fast as vector_norm
            self._silent[name] = torch.where(none, self._silent[name] + 1, 0) if name in self._silent else none.int()
        rows = [
            *torch._foreach_norm(gradients),
            *torch._foreach_norm(values),
            *(value.mean() for value in values),
            *((self._silent[name] >= _WINDOW).float().mean() for name in units),
        ]
        flat = torch.stack([row.float() for row in rows]).tolist()  # the one transfer
        n = len(named)
        self._dead = dict(zip(units, flat[3 * n :], strict=True))
        found = {}
        for (name, value), norm, size, mean in zip(named.items(), flat, flat[n:], flat[2 * n : 3 * n], strict=False):
            if not math.isfinite(size):
                raise TaskError("weights are no longer finite", where=name, remedy="Try a smaller train.lr.")
            found[name] = (norm, mean, math.sqrt(max(0.0, size**2 / value.numel() - mean**2)))
        self._largest = max((self._rms(name, row[0]) for name, row in found.items()), default=0.0)
        self._seen = found
        return found

    def judge(self, number: int) -> list[Finding]:
        """What the last look and those before it come to."""
        found = []
        for name, share in self._dead.items():
            if share >= _DEAD:
                message = f"{share:.0%} of its units got no gradient at {_WINDOW} looks in a row: they are dead"
                advice = "a smaller train.lr, another initialisation of the layer, or LeakyReLU or GELU after it"
                found.append(Finding("dead", self._units[name], number, share, message, advice))
        for name, (norm, *_) in self._seen.items():
            self._before[name].jump(norm)
            if self._learning[name].dim() < 2 or not self._largest or not norm:
                continue  # biases before a norm have none; units without any are dead
            shares = self._shares.setdefault(name, deque(maxlen=_WINDOW))
            shares.append(self._rms(name, norm) / self._largest)
            if len(shares) == _WINDOW and (middle := median(shares)) < _VANISHED:
                message = f"its gradient is {middle:.1g} of the largest layer's: it hardly learns"
                advice = "ReLU or GELU instead of sigmoid or tanh, normalisation layers, or residual connections"
                found.append(Finding("vanishing", name, number, middle, message, advice))
        return found

    def worst(self, look: dict[str, tuple[float, float, float]]) -> str:
        """The tensor whose gradient has grown most; while that is not known, the one with the largest."""
        grown = {name: self._before[name].ratio(row[0]) for name, row in look.items()}
        return max(look, key=lambda name: (grown[name], look[name][0]))

    def _rms(self, name: str, norm: float) -> float:
        return norm / math.sqrt(self._learning[name].numel())


def not_finite(model: nn.Module) -> list[str]:
    """The tensors whose gradient holds NaN or infinity, by name, in the model's order; of what lies in this process."""
    named = [(name, local(p.grad)) for name, p in model.named_parameters() if p.grad is not None]
    if not named:
        return []
    norms = torch.stack([norm.float() for norm in torch._foreach_norm([gradient for _, gradient in named])]).tolist()
    return [name for (name, _), norm in zip(named, norms, strict=True) if not math.isfinite(norm)]


def _has_units(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd) and not isinstance(module, _ConvTransposeNd)


def _place(finding: Finding) -> str:
    return f"{finding.layer}, {f'step {finding.step}' if finding.step else 'before the first step'}"
