"""One seed's classifier, what is made of it, and how the answers and times of all of them compare."""

import itertools
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.quantizers import builtin, nncf
from benchmarks.quantizers.nncf import save_texts
from torch import nn

from headway.compress.distill import Distill, DistillConfig
from headway.compress.prune import Prune, PruneConfig
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.step import StepContext
from headway.core.files import atomic_file, digest_json, make_folder, write_atomic
from headway.core.machine import here
from headway.core.progress import Progress
from headway.core.tensors import Array
from headway.export.onnx import OnnxExport
from headway.measure.accuracy import Rows as Scores
from headway.measure.accuracy import compare
from headway.measure.latency import Milliseconds, interleave, speedup
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.runtime import Session
from headway.runtimes.torch_eager import TorchEagerSession
from headway.shipping.evaluate import specs
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.parts import Part, Subset
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.predict import predict
from headway.train.scope import threads
from headway.train.weights import load_weights, save_weights

EAGER, FP32, INT8 = "original, eager PyTorch", "original, FP32", "original, int8"
LIGHTER, STUDENT, STUDENT_INT8 = "pruned, int8", "student, FP32", "student, int8"
ORT, TORCH, NNCF = "ONNX Runtime's quantizer", "torch dynamic quantization", "NNCF, in OpenVINO"
CONFIDENCE = 0.95
_CALIBRATION = 300  # texts for NNCF, as many as it takes by default


class Setting(NamedTuple):
    """How much is trained, and what of the original stays.

    Attributes:
        train: of the original.
        kept: layers of the student.
        narrow: share of the student's parameters that it then keeps.
        distill: passes over the training part under the teacher.
        light: share of the parameters that `LIGHTER` keeps.
        recover: passes over the training part after that cut.
        least_weights: see `QuantizeConfig`.
        latency: seconds of measuring.
        apart: whether peers that want an environment of their own take part.
    """

    train: TrainConfig
    kept: tuple[int, ...]
    narrow: float
    distill: float
    light: float
    recover: float
    least_weights: int
    latency: float
    apart: bool


class Row(NamedTuple):
    """What was found of a candidate on test texts.

    Attributes:
        accuracy: share of right answers.
        lost: low, estimate and high of the points lost against the original, each end at `CONFIDENCE`.
        faster: low, median and high of the original's time in eager PyTorch, divided by its own.
        ms: median of a text.
        mb: of its file, in units of 10^6 bytes.
        share: of the original's file.
    """

    accuracy: float
    lost: tuple[float, float, float]
    faster: tuple[float, float, float]
    ms: float
    mb: float
    share: float


class Run:
    """One seed.

    Args:
        task: texts and classes.
        setting: how much.
        seed: of weights and order.
        folder: keeps everything.
        progress: told of long work.
    """

    def __init__(self, task: Task, setting: Setting, seed: int, folder: Path, progress: Progress) -> None:
        self.task, self.setting, self.folder, self.progress = task, setting, folder, progress
        self.train = setting.train.model_copy(update={"seed": seed})
        decisive = {**setting._asdict(), "train": self.train.model_dump(mode="json", exclude={"threads"})}
        self.made = folder / digest_json({"setting": decisive, "data": task.parts.digest()})[:12]
        make_folder(self.made)

    # -- what is made ----------------------------------------------------------------------------------------------

    def original(self) -> nn.Module:
        """The fine-tuned classifier."""
        model = build_model(self.task, self.train.seed)
        fit(model, self.task, self.train, folder=self.folder / "original", progress=self.progress)
        return model

    def student(self) -> nn.Module:
        """Some of the original's layers, taught by the original."""
        stack = "bert.encoder.layer"
        config = DistillConfig(
            keep_layers={stack: self.setting.kept},
            narrow=self.setting.narrow,
            epochs=self.setting.distill,
            lr=1,
            temperature=2,
            features={"bert": "bert"},  # the text's vector
        )
        return self._step(Distill(config), "student")

    def lighter(self) -> nn.Module:
        """The original without the channels and heads that matter least."""
        config = PruneConfig(keep=self.setting.light, every=1, finetune_epochs=self.setting.recover, align=1)
        return self._step(Prune(config), "lighter")

    def _step(self, step: Distill | Prune, name: str) -> nn.Module:
        """The original after a step, which is kept."""
        weights, record = self.made / f"{name}.safetensors", self.made / f"{name}.json"
        if record.is_file():
            model = step.replay(build_model(self.task), json.loads(record.read_text()))
            load_weights(model, weights)
            return model.eval()
        context = self._context(self.made / name)
        model, made = step.apply(self.original(), context)
        save_weights(model, weights)
        write_atomic(record, json.dumps(made))
        return model.eval()

    def _context(self, folder: Path) -> StepContext:
        make_folder(folder)
        return StepContext(self.task, self.train, here(), folder, self.progress, original=self.original)

    def files(self) -> dict[str, Path]:
        """The ONNX file of each candidate and of ONNX Runtime's own quantizer; made where it is not there."""
        made = {FP32: self.original, STUDENT: self.student, LIGHTER: self.lighter}
        quantized = {INT8: FP32, STUDENT_INT8: STUDENT, LIGHTER: LIGHTER}
        graphs = {name: self._exported(name, model) for name, model in made.items()}
        files = {name: graphs[name] for name in (FP32, STUDENT)}
        files |= {name: self._quantized(name, graphs[base]) for name, base in quantized.items()}
        files[ORT] = self._file(ORT, lambda out: builtin.onnxruntime_dynamic(graphs[FP32], out))
        return files

    def _exported(self, name: str, model: Callable[[], nn.Module]) -> Path:
        example, _ = self.task.parts.calibration.batch(np.arange(2))
        names, varying = self.task.output_names, self.task.varying
        return self._file(f"{name}, graph", lambda out: OnnxExport().write(model(), example, names, out, varying))

    def _quantized(self, name: str, graph: Path) -> Path:
        step = Quantize(QuantizeConfig(mode="dynamic", least_weights=self.setting.least_weights))
        return self._file(f"{name}, file", lambda out: step.apply(graph, out, self._context(self.made / "int8")))

    def _file(self, name: str, write: Callable[[Path], object]) -> Path:
        out = self.made / f"{_plain(name)}.onnx"
        if not out.is_file():
            write(out)
        return out

    # -- what is measured ------------------------------------------------------------------------------------------

    def selection(self) -> dict[str, float]:
        """Accuracy on selection texts, of what was made."""
        part = self.task.parts.selection
        found = {EAGER: self._scores("selection", EAGER, lambda: self._eager(self.original(), part))}
        for name, file in self.files().items():
            found[name] = self._scores("selection", name, partial(self._single, file, part))
        return {name: float(scores.mean()) for name, scores in found.items()}

    def measure(self) -> dict[str, Row]:
        """Every candidate and peer on test texts, which are read here and nowhere else."""
        test, files = self.task.parts.test, self.files()
        modules = {EAGER: self.original(), TORCH: builtin.torch_dynamic(self.original())}
        sizes = {EAGER: self.made / "original.safetensors", TORCH: self.made / "torch.pt", **files}
        save_weights(modules[EAGER], sizes[EAGER])
        torch.save(modules[TORCH].state_dict(), sizes[TORCH])
        scores = {
            name: self._scores("test", name, partial(self._eager, module, test)) for name, module in modules.items()
        }
        for name, file in files.items():
            scores[name] = self._scores("test", name, partial(self._single, file, test))
        with ExitStack() as stack:
            runs: dict[str, Callable[[], object]] = {}
            for name, module in modules.items():
                session: Session = TorchEagerSession(module, specs(self.task), self.task.output_names)
                stack.callback(session.close)
                runs[name] = self._going_round(session)
            for name, file in files.items():
                session = OnnxRuntime().load(file)
                stack.callback(session.close)
                runs[name] = self._going_round(session)
            if self.setting.apart:
                peer, sizes[NNCF] = stack.enter_context(nncf.texts(self.made)), self.made / "nncf.bin"
                self._openvino(peer, files[FP32])
                scores[NNCF] = self._scores("test", NNCF, lambda: (peer.answers(), _targets(test)))
                runs[NNCF] = partial(peer.ask, "next")
            ms = interleave(runs, seconds=self.setting.latency, progress=self.progress)
        return {name: _row(scores[EAGER], scores[name], ms[EAGER], ms[name], sizes[name], sizes[EAGER]) for name in ms}

    def _openvino(self, peer: nncf.Texts, graph: Path) -> None:
        """Have NNCF's file made, and loaded with the test texts."""
        model, calibration, test = (self.made / name for name in ("nncf.xml", "calibration.npz", "test.npz"))
        if not model.is_file():
            rows = np.arange(min(_CALIBRATION, len(self.task.parts.calibration)))
            save_texts(Subset(self.task.parts.calibration, rows), calibration)
            peer.ask("quantize", graph, calibration, model)
        save_texts(self.task.parts.test, test)
        peer.ask("load", model, test)

    def _scores(self, part: str, name: str, answers: Callable[[], tuple[Mapping[str, Array], Array]]) -> Scores:
        """The score of each row of a part, [rows]; kept once it was found."""
        kept = self.made / f"{part}-{_plain(name)}.npy"
        if not kept.is_file():
            with atomic_file(kept) as out, out.open("wb") as file:
                np.save(file, np.asarray(self.task.metric.rows(*answers()), np.float64))
        return np.asarray(np.load(kept), np.float64)

    def _going_round(self, session: Session) -> Callable[[], object]:
        """Runs test texts one by one, each of its own length, for ever."""
        test = self.task.parts.test
        texts = (test.batch(np.array([row]))[0] for row in itertools.cycle(range(len(test))))
        return lambda: session.run(next(texts))

    def _eager(self, model: nn.Module, part: Part) -> tuple[Mapping[str, Array], Array]:
        with threads(1):
            return predict(model, part, self.task.output_names, batch_size=1)

    def _single(self, file: Path, part: Part) -> tuple[Mapping[str, Array], Array]:
        session = OnnxRuntime().load(file)
        try:
            answers = [session.run(part.batch(np.array([row]))[0])["logits"] for row in range(len(part))]
        finally:
            session.close()
        return {"logits": np.concatenate(answers)}, _targets(part)


def _targets(part: Part) -> Array:
    return part.batch(np.arange(len(part)))[1]


def _plain(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _row(base: Scores, scores: Scores, eager: Milliseconds, ms: Milliseconds, file: Path, original: Path) -> Row:
    found = compare(base, scores, metric="accuracy", confidence=CONFIDENCE)
    low, high = found.kept_interval
    points = [100 * float(base.mean()) * (1 - kept) for kept in (high, found.kept, low)]
    size, whole = file.stat().st_size / 1e6, original.stat().st_size / 1e6
    return Row(
        accuracy=found.value,
        lost=(points[0], points[1], points[2]),
        faster=speedup(eager, ms, CONFIDENCE),
        ms=float(np.median(ms)),
        mb=size,
        share=size / whole,
    )
