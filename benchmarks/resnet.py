"""The pruned ResNet-18s of `benchmarks.prune` in 8 bits, beside what exists; writes a section of benchmarks/RESULTS.md.

    python -m benchmarks.resnet [--seed 0] [--work FOLDER] [--small]

Takes the networks that `benchmarks.prune` left in the same folder, and trains what it does not find. Calibration is
chosen by accuracy on selection rows; test rows are read after that. Every line is compared with the original in FP32,
row by row. Latency: one row, one thread, all in turn; OpenVINO runs in a process of its own behind pipes.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.prune import ALONE, CONFIDENCE, FULL, LINES, PROMISED, SMALL, Run
from benchmarks.quantizers import builtin, nncf
from benchmarks.quantizers.nncf import Pictures
from benchmarks.results import RESULTS, machine, taken, write
from numpy.typing import NDArray

from headway.bundles.manifest import Accuracy
from headway.compress.quantize import Quantize, QuantizeConfig
from headway.compress.step import StepContext
from headway.core.files import home, make_folder
from headway.core.machine import here
from headway.core.progress import SILENT
from headway.core.tensors import TensorSpec
from headway.export.onnx import OnnxExport
from headway.measure.accuracy import compare
from headway.measure.latency import interleave, speedup
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.runtime import Session
from headway.runtimes.torch_eager import TorchEagerSession

EAGER, FP32, DYNAMIC = "original, eager PyTorch", "original, FP32", "torch dynamic"
ORT, NNCF, OPENVINO = "ONNX Runtime's quantizer", "NNCF, ONNX Runtime", "NNCF, OpenVINO"
WHOLE = "original, 8 bits"
CALIBRATIONS = ("minmax", "percentile", "entropy")
Rows = NDArray[np.float64]


def eight(keep: float) -> str:
    """The line of a pruned network in 8 bits."""
    return f"pruned to {keep:.0%}, 8 bits"


class Forms:
    """Every form of one seed's network; what was made before comes back at once.

    Args:
        run: where the networks come from.
        folder: keeps the forms.
        peer: NNCF, started; None where it does not take part.
    """

    def __init__(self, run: Run, folder: Path, peer: Pictures | None) -> None:
        self._run, self._folder, self._peer = run, folder, peer
        make_folder(folder)
        self._importance = max(LINES[:-1], key=lambda name: np.mean([self._kept(name, keep) for keep in PROMISED]))
        self.chosen: dict[str, str] = {}

    def _kept(self, name: str, keep: float) -> float:
        """Accuracy on selection rows of one point of a line."""
        point = self._run.folder / "points" / f"{name}-{keep}.json"
        if not point.is_file():
            self._run.points(name)
        return float(json.loads(point.read_text())["selection"])

    def file(self, line: str) -> Path:
        """A line's model file."""
        points = self._run.folder / "points"
        if line == ALONE:
            _ = self._kept(ALONE, PROMISED[-1])
            return points / f"{ALONE}-{PROMISED[-1]}.onnx"
        if line == FP32:
            return self._original()
        for keep in PROMISED:
            if line == eight(keep):
                return self._quantized(line, points / f"{self._importance}-{keep}.onnx")
        if line == WHOLE:
            return self._quantized(line, self._original())
        out = self._folder / {ORT: "ort.onnx", NNCF: "nncf.onnx"}.get(line, "nncf.xml")
        if not out.is_file():
            part = self._run.task.parts.calibration
            rows = part.batch(np.arange(min(300, len(part))))[0]["image"]
            if line == ORT:
                builtin.onnxruntime_static(self._original(), rows, out)
            else:
                assert self._peer is not None
                self._peer.quantize(self._original(), rows, self._folder)
        return out

    def _original(self) -> Path:
        out = self._folder / "original.onnx"
        if not out.is_file():
            example, _ = self._run.task.parts.train.batch(np.arange(2))
            OnnxExport().write(self._run.original(), example, self._run.task.output_names, out)
        return out

    def _quantized(self, line: str, graph: Path) -> Path:
        """In the calibration of the best accuracy on selection rows."""
        made: dict[str, float] = {}
        for name in CALIBRATIONS:
            out = self._folder / f"{line}, {name}.onnx"
            if not out.is_file():
                config = QuantizeConfig.model_validate({"calibration": name})
                context = StepContext(self._run.task, self._run.train, here(), self._folder / name, SILENT)
                Quantize(config).apply(graph, out, context)
            made[name] = float(self.right(out, "selection").mean())
        self.chosen[line] = max(made, key=made.__getitem__)
        return self._folder / f"{line}, {self.chosen[line]}.onnx"

    def right(self, what: str | Path, part: str) -> Rows:
        """1 for each row of a part that a line, or a file, answers right; kept."""
        kept = self._folder / "right" / f"{what if isinstance(what, str) else what.stem} {part}.npy"
        if not kept.is_file():
            make_folder(kept.parent)
            rows, answers = getattr(self._run.task.parts, part), []
            with self.session(what) as session:
                for some in np.array_split(np.arange(len(rows)), max(1, len(rows) // 64)):
                    inputs, targets = rows.batch(some)
                    answers.append(session.run(inputs)["logits"].argmax(axis=1) == targets)
            np.save(kept, np.concatenate(answers).astype(np.float64))
        found: Rows = np.load(kept)
        return found

    @contextmanager
    def session(self, what: str | Path) -> Iterator[Session | Pictures]:
        """Runs a line, or a file, with one thread."""
        if what == OPENVINO:
            assert self._peer is not None
            self._peer.ask("load", self.file(OPENVINO))
            yield self._peer
            return
        session: Session
        if what in (EAGER, DYNAMIC):
            model = self._run.original()
            inputs = (TensorSpec(name="image", datatype="FP32", shape=(-1, 1, 28, 28)),)
            made = builtin.torch_dynamic(model) if what == DYNAMIC else model
            session = TorchEagerSession(made, inputs, self._run.task.output_names)
        else:
            session = OnnxRuntime().load(what if isinstance(what, Path) else self.file(what))
        try:
            yield session
        finally:
            session.close()


def latency(forms: Forms, lines: list[str], image: dict[str, Any], seconds: float) -> dict[str, Rows]:
    """Milliseconds of one row of each line, in turn."""
    with ExitStack() as stack:
        sessions = {line: stack.enter_context(forms.session(line)) for line in lines}
        for session in sessions.values():
            session.run(image)
        runs = {
            line: session.again if isinstance(session, Pictures) else partial(session.run, image)
            for line, session in sessions.items()
        }
        return interleave(runs, seconds=seconds)


def section(lines: dict[str, tuple[Accuracy, tuple[float, ...], float, float]], forms: Forms, setting: str) -> str:
    """The figures as Markdown."""
    text = [
        "## ResNet-18 on Fashion-MNIST, in 8 bits",
        "",
        f"{taken()} with `python -m benchmarks.resnet`, after `python -m benchmarks.prune`. {machine()}; one thread.",
        setting,
        "Kept at least: of the original's accuracy on 10,000 test rows, 95% confidence. Faster: than eager PyTorch in",
        "FP32, one row, all in turn; 95% limits on each side.",
        "",
        "| line | accuracy | kept at least | faster | median ms | MB |",
        "|---|---|---|---|---|---|",
    ]
    for line, (accuracy, speed, ms, mb) in lines.items():
        size = f"{mb:.2f}" if mb else ""
        text.append(
            f"| {line} | {accuracy.value:.4f} | {accuracy.kept_interval[0]:.2%} "
            f"| {speed[1]:.2f} ({speed[0]:.2f}-{speed[2]:.2f}) | {ms:.2f} | {size} |"
        )
    best = [
        line for line, (accuracy, *_) in lines.items() if line in forms.chosen and accuracy.kept_interval[0] >= 0.99
    ]
    fastest = max(best, key=lambda line: lines[line][1][1], default=None)
    text += ["", f"Calibration, chosen on selection rows: {', '.join(f'{k}: {v}' for k, v in forms.chosen.items())}."]
    if fastest is None:
        text.append("Goal: 5x eager FP32 at 99% of the accuracy. **Not reached**: no line is proven to keep 99%.")
    else:
        reached = "reached" if lines[fastest][1][0] >= 5 else "**not reached**"
        text.append(f"Goal: 5x eager FP32 at 99% of the accuracy: {reached}, by {fastest}.")
    return "\n".join(text)


def main() -> None:
    """Make, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="as for benchmarks.prune")
    parser.add_argument("--small", action="store_true", help="a small network, without NNCF; nothing written")
    asked = parser.parse_args()
    setting = SMALL if asked.small else FULL
    work = asked.work or home() / "cache" / "benchmarks" / ("prune-small" if asked.small else "prune")
    run = Run(setting, asked.seed, work / f"seed-{asked.seed}", 1)
    folder = run.folder / "forms"
    make_folder(folder)
    names = [FP32, WHOLE, *map(eight, PROMISED), ORT, DYNAMIC, ALONE]
    with ExitStack() as stack:
        peer = None if asked.small else stack.enter_context(nncf.pictures(folder))
        names += [NNCF, OPENVINO] if peer else []
        forms = Forms(run, folder, peer)
        files = {name: forms.file(name) for name in names if name != DYNAMIC}  # chosen before test rows are read
        base = forms.right(FP32, "test")
        right = {name: forms.right(name, "test") for name in names}
        image = run.task.parts.selection.batch(np.arange(1))[0]
        ms = latency(forms, [EAGER, *names], image, 1 if asked.small else 60)
        lines = {
            name: (
                compare(base, right[name], metric="accuracy", confidence=CONFIDENCE),
                speedup(ms[EAGER], ms[name], CONFIDENCE),
                float(np.median(ms[name])),
                _megabytes(files.get(name)),
            )
            for name in names
        }
    about = f"{setting.rows:,} training rows, {setting.epochs:g} epochs; seed {asked.seed}."
    text = section(lines, forms, about)
    print(text)
    if not asked.small:
        write("resnet", text)
        print(f"written to {RESULTS}")


def _megabytes(file: Path | None) -> float:
    if file is None:
        return 0.0
    parts = (file, file.with_suffix(".bin")) if file.suffix == ".xml" else (file,)
    return sum(part.stat().st_size for part in parts) / 1e6


if __name__ == "__main__":
    main()
