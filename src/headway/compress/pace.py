"""What a model's groups cost in time: a run of one row in ONNX Runtime on this machine, as shares of the untouched
model's run.

For each group, the model without half of its channels is exported and timed in turn with the model as it is and with
the untouched one, so that all meet the same disturbances. A channel is taken to cost what those cost on average.

What is only timed is exported by PyTorch's older exporter, where that can: it takes 0.4 s over a MobileNetV2, which has
25 groups, and the one that writes what is sealed 12 s.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headway.compress.channels import Group, remove
from headway.compress.quantize import match
from headway.compress.step import StepContext
from headway.core.files import make_folder
from headway.export.onnx import OnnxExport
from headway.export.quiet import quiet
from headway.export.wrapper import ByName
from headway.measure.latency import interleave
from headway.runtimes.onnx_runtime import OnnxRuntime, OnnxSession

WHOLE = 10**9  # what a run of the untouched model counts
_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 0.5, 20, 500


class TimeBudget:
    """As `channels.Budget`, in billionths of the untouched model's run.

    Args:
        total: of the model as it is.
        each: by group, of a channel.
    """

    def __init__(self, total: int, each: Mapping[str, float]) -> None:
        self._total, self._each = total, each

    @property
    def total(self) -> int:
        """The whole model's."""
        return self._total

    def cost(self, group: Group, channels: int) -> int:
        """What goes with so many of the group's channels."""
        return round(self._each[group.name] * channels)

    def spend(self, group: Group, channels: int) -> int:
        """Take so many channels off the group; returns what went."""
        freed = self.cost(group, channels)
        self._total -= freed
        return freed


class Pace:
    """Times a model while it is pruned; `close` it at the end.

    Args:
        model: untouched.
        context: where the step works.
    """

    def __init__(self, model: nn.Module, context: StepContext) -> None:
        self._context = context
        make_folder(context.folder)
        self._example, _ = context.task.parts.train.batch(np.arange(2) % len(context.task.parts.train))
        self._untouched = self._load(model)

    def share(self, model: nn.Module) -> float:
        """A run's time as a share of the untouched model's: the median of neighbouring runs."""
        now = self._load(model)
        ms = self._time({"now": now})
        now.close()
        return float(np.median(ms["now"] / ms["untouched"]))

    def budget(self, model: nn.Module, found: Sequence[Group], title: str) -> TimeBudget:
        """What the model, and a channel of each group, cost now."""
        now, shares, each = self._load(model), [], {}
        with self._context.progress.work(title, len(found)) as bar:
            for group in found:
                columns = group.channels // group.fold
                half = np.arange(max(1, columns // 2))
                gone = np.concatenate([half + part * columns for part in range(group.fold)])
                narrow = copy.deepcopy(model)
                remove(narrow, group, gone)
                trial = self._load(narrow)
                ms = self._time({"now": now, "trial": trial})
                trial.close()
                shares.append(np.median(ms["now"] / ms["untouched"]))
                saved = float(np.median((ms["now"] - ms["trial"]) / ms["untouched"]))
                each[group.name] = max(0.0, saved) * WHOLE / len(gone)
                bar.advance(1, group.name)
        now.close()
        return TimeBudget(round(float(np.median(shares)) * WHOLE), each)

    def close(self) -> None:
        """Free what is loaded."""
        self._untouched.close()

    def _load(self, model: nn.Module) -> OnnxSession:
        file = self._context.folder / "pace.onnx"
        try:
            self._trace(model, file)
        except Exception:  # noqa: BLE001  (it raises whatever the module's code makes of its tracing)
            task = self._context.task
            OnnxExport().write(model, self._example, task.output_names, file, task.varying)
        session = OnnxRuntime().load(file, threads=self._context.threads)
        file.unlink()
        return session

    def _trace(self, model: nn.Module, file: Path) -> None:
        names, device = self._context.task.output_names, next(model.parameters()).device
        tensors = tuple(torch.from_numpy(value).to(device) for value in self._example.values())
        with quiet():
            torch.onnx.export(
                ByName(model, tuple(self._example), tuple(names)).eval(),
                tensors,
                str(file),
                dynamo=False,
                opset_version=17,
                input_names=list(self._example),
                output_names=list(names),
                dynamic_axes={name: {0: "batch"} for name in self._example},
            )

    def _time(self, sessions: Mapping[str, OnnxSession]) -> dict[str, NDArray[np.float64]]:
        """Median milliseconds of each round, [rounds]."""
        row = {name: value[:1] for name, value in self._example.items()}
        both = {**sessions, "untouched": self._untouched}
        runs = {name: partial(session.run, match(session.inputs, row)) for name, session in both.items()}
        taken = interleave(runs, seconds=_SECONDS, least_rounds=_LEAST_ROUNDS, most_rounds=_MOST_ROUNDS)
        return {name: np.median(ms, axis=1) for name, ms in taken.items()}
