"""One fold's network, and every 8-bit or pruned form of it; what was computed before comes back at once."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.quantizers import builtin
from benchmarks.quantizers.nncf import Pictures
from numpy.typing import NDArray
from torch import nn

from headway.compress.batchnorm import recalibrate
from headway.compress.prune import Prune, PruneConfig
from headway.compress.qat import Qat, QatConfig
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.step import StepContext
from headway.core.files import make_folder, write_atomic
from headway.core.machine import here
from headway.core.progress import SILENT
from headway.core.tensors import Array, TensorSpec
from headway.export.onnx import OnnxExport
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.runtime import Session
from headway.runtimes.torch_eager import TorchEagerSession
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.parts import Part
from headway.train.config import TrainConfig
from headway.train.loop import fit

FP32, PLAIN, MIXED, QAT, EAGER = (
    "FP32, ONNX Runtime",
    "min-max, plain",
    "min-max, plain, mixed",
    "qat, min-max",
    "eager",
)
DEFAULTS = {"quantize": "ONNX Runtime's quantizer", "nncf": "NNCF, ONNX Runtime", "openvino": "NNCF, OpenVINO"}
DYNAMIC = "torch dynamic"
_ALL = {"calibration": "minmax", "keep_fp32": []}
OURS: dict[str, dict[str, Any]] = {  # `quantize` of a recipe; the first is what one writes who knows nothing
    PLAIN: {**_ALL, "per_channel": False},
    MIXED: {"calibration": "minmax", "per_channel": False, "mixed": {"minutes": 2, "rows": 200}},
    "min-max": _ALL,
    "percentile": {**_ALL, "calibration": "percentile"},
    "entropy": {**_ALL, "calibration": "entropy"},
    "min-max, first and last in FP32": {"calibration": "minmax"},
    QAT: _ALL,
}
PRUNED, QUANTIZED, BY_TIME, ALONE = "pruned", "pruned, min-max", "pruned by latency", "torch-pruning alone"
PRUNING = (PRUNED, QUANTIZED, BY_TIME, ALONE)


@dataclass(frozen=True)
class Setting:
    """How much is trained."""

    folds: int
    side: int
    epochs: float
    qat_epochs: float
    keep: float  # of the parameters, or of the time
    every: float
    finetune_epochs: float
    ours: tuple[str, ...]  # of every fold
    first: tuple[str, ...]  # of the first fold alone
    most: int | None  # rows of a part


_STATIC = tuple(line for line in OURS if line not in (MIXED, QAT))
FULL = Setting(3, 128, 4, 1, 0.7, 0.15, 1, _STATIC, (MIXED, QAT, *PRUNING), None)
SMALL = Setting(2, 64, 0.5, 0.25, 0.8, 0.2, 0.25, (PLAIN, "min-max"), (QAT, PRUNED), 64)


class Fold:
    """A fold.

    Args:
        setting: how much.
        task: its data.
        number: of the fold; also the seed.
        folder: keeps everything.
        peer: NNCF, started.
    """

    def __init__(self, setting: Setting, task: Task, number: int, folder: Path, peer: Pictures) -> None:
        self.setting, self.task, self.number, self.folder, self.peer = setting, task, number, folder, peer
        self.train = TrainConfig(epochs=setting.epochs, batch_size=32, lr=1e-3, seed=number, threads=1)

    def original(self) -> nn.Module:
        """The fine-tuned network."""
        model = build_model(self.task, self.number)
        fit(model, self.task, self.train, folder=self.folder / "original")
        return model

    @cached_property
    def graph(self) -> Path:
        """The fine-tuned network as ONNX."""
        return self._exported("original", self.original)

    # -- the forms -------------------------------------------------------------------------------------------------

    def file(self, line: str) -> Path:
        """The file of a line; not of those that are modules."""
        if line == FP32:
            return self.graph
        if line == QAT:
            return self._quantized(line, self._exported("qat", self._trained_for_8_bits), OURS[line])
        if line in OURS:
            return self._quantized(line, self.graph, OURS[line])
        if line == QUANTIZED:
            return self._quantized(line, self.file(PRUNED), _ALL)
        if line in PRUNING:
            made = {PRUNED: partial(self._pruned, "parameters"), BY_TIME: partial(self._pruned, "latency")}
            return self._exported(line, made.get(line, self._alone))
        out = self.folder / {DEFAULTS["quantize"]: "ort.onnx", DEFAULTS["nncf"]: "nncf.onnx"}.get(line, "nncf.xml")
        if not out.is_file():
            rows, _ = self.task.parts.calibration.batch(np.arange(len(self.task.parts.calibration)))
            if out.name == "ort.onnx":
                builtin.onnxruntime_static(self.graph, rows["image"], out)
            else:
                self.peer.quantize(self.graph, rows["image"], self.folder)
        return out

    def _quantized(self, line: str, graph: Path, settings: Mapping[str, Any]) -> Path:
        out = self.folder / f"{line}.onnx"
        if not out.is_file():
            config = QuantizeConfig.model_validate(dict(settings))
            record = Quantize(config).apply(graph, out, self._context(line))
            write_atomic(out.with_suffix(".json"), json.dumps(record.get("mixed", {})))
        return out

    def _exported(self, name: str, make: Callable[[], nn.Module]) -> Path:
        out = self.folder / f"{name}.fp32.onnx"
        if not out.is_file():
            make_folder(self.folder)
            example, _ = self.task.parts.train.batch(np.arange(2))
            OnnxExport().write(make(), example, self.task.output_names, out)
        return out

    def _trained_for_8_bits(self) -> nn.Module:
        context = self._context("qat", following=QuantizeConfig.model_validate(OURS[QAT]))
        model, record = Qat(QatConfig(epochs=self.setting.qat_epochs)).apply(self.original(), context)
        write_atomic(self.folder / "qat.json", json.dumps(record))
        return model

    def _pruned(self, budget: str) -> nn.Module:
        config = PruneConfig.model_validate(
            {
                "keep": self.setting.keep,
                "every": self.setting.every,
                "finetune_epochs": self.setting.finetune_epochs,
                "budget": budget,
            }
        )
        model, record = Prune(config).apply(self.original(), self._context(f"prune-{budget}"))
        write_atomic(self.folder / f"prune-{budget}.json", json.dumps(record))
        return model

    def _alone(self) -> nn.Module:
        """torch-pruning's magnitude pruner with its defaults, to as many parameters and with the same fine-tuning."""
        import torch_pruning

        model = self.original()
        whole, rounds = parameters(model), round((1 - self.setting.keep) / self.setting.every)
        pruner = torch_pruning.pruner.BasePruner(
            model,
            torch.from_numpy(self._row["image"]),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
            global_pruning=True,
            pruning_ratio=0.9,
            max_pruning_ratio=0.9,
            iterative_steps=200,
            ignored_layers=[model.get_submodule("classifier.1")],
        )
        for number in range(1, rounds + 1):
            while parameters(model) > (1 - (1 - self.setting.keep) * number / rounds) * whole:
                pruner.step()
            update = {"epochs": self.setting.finetune_epochs, "lr": self.train.lr * PruneConfig().finetune_lr}
            fit(model, self.task, self.train.model_copy(update=update), folder=self.folder / f"alone-{number}")
            recalibrate(model, self.task, self.number, self.train.batch_size)
        return model

    def _context(self, name: str, following: Any = None) -> StepContext:
        return StepContext(self.task, self.train, here(), self.folder / name, SILENT, 1, following)

    # -- what they answer ------------------------------------------------------------------------------------------

    @property
    def _row(self) -> dict[str, Array]:
        return self.task.parts.selection.batch(np.arange(1))[0]

    def logits(self, line: str, part: str) -> NDArray[np.float32]:
        """[rows, 2], of a part's rows in order; kept."""
        kept = self.folder / "logits" / f"{line} {part}.npy"
        if not kept.is_file():
            make_folder(kept.parent)
            with self.session(line) as session:
                np.save(kept, np.concatenate([session.run(inputs)["logits"] for inputs in _batches(self._part(part))]))
        found: NDArray[np.float32] = np.load(kept)
        return found

    def _part(self, name: str) -> Part:
        part: Part = getattr(self.task.parts, name)
        return part

    @contextmanager
    def session(self, line: str) -> Iterator[Session | Pictures]:
        """Runs a line with one thread."""
        if line in (EAGER, DYNAMIC):
            model = self.original()
            inputs = tuple(
                TensorSpec(name="image", datatype="FP32", shape=(-1, *value.shape[1:])) for value in self._row.values()
            )
            made = builtin.torch_dynamic(model) if line == DYNAMIC else model
            session: Session = TorchEagerSession(made, inputs, self.task.output_names)
        elif line == DEFAULTS["openvino"]:
            self.peer.ask("load", self.file(line))
            yield self.peer
            return
        else:
            session = OnnxRuntime().load(self.file(line))
        try:
            yield session
        finally:
            session.close()

    def runs(self, line: str, session: Session | Pictures) -> Callable[[], object]:
        """Runs one row, always the same."""
        row = self._row
        session.run(row)
        return session.again if isinstance(session, Pictures) else partial(session.run, row)


def parameters(model: nn.Module) -> int:
    """How many."""
    return sum(parameter.numel() for parameter in model.parameters())


def _batches(part: Part) -> Iterator[dict[str, Array]]:
    for rows in np.split(np.arange(len(part)), range(64, len(part), 64)):
        yield part.batch(rows)[0]
