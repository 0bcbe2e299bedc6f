"""Prunes a ResNet-18 trained on Fashion-MNIST step by step, for each importance and by torch-pruning alone, and writes
the curves into benchmarks/RESULTS.md.

    python -m benchmarks.prune [--seeds 0 1 2] [--work FOLDER] [--small]

The full setting (11.2M parameters, 10,000 training rows) takes about two hours a seed on two cores; a run that was
interrupted goes on when it is started again with the same folder. `--small` takes minutes and only prints.

All lines start from the same trained network, and have the same rows and epochs between cuts. torch-pruning alone: its
magnitude pruner with its defaults over all layers, by channels, until as few parameters are left. The curves are of
selection rows; test rows are read once, for the two shares that are promised, with the importance that selection rows
prefer and with torch-pruning alone. Latency is that of one row in FP32, all in turn.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from benchmarks.results import RESULTS, machine, taken, write
from torch import nn

from headway.compress.batchnorm import recalibrate
from headway.compress.prune import Prune, PruneConfig
from headway.compress.step import StepContext
from headway.core.files import home, make_folder, write_atomic
from headway.core.machine import here
from headway.core.progress import SILENT
from headway.export.onnx import OnnxExport
from headway.measure.accuracy import compare
from headway.measure.latency import interleave, speedup
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.images import fashion_mnist
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.predict import predict
from headway.train.scope import threads

ALONE = "torch-pruning alone"
LINES = ("l1", "variance", "taylor", ALONE)
PROMISED = (0.6, 0.4)  # shares of the parameters
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Setting:
    """How much is trained, and where the curve has its points."""

    width: int
    rows: int
    epochs: float
    between: float  # epochs from one point to the next, in two rounds
    keeps: tuple[float, ...]
    selection: int


FULL = Setting(64, 10_000, 8, 0.5, (0.8, 0.6, 0.5, 0.4), 4_000)
SMALL = Setting(8, 512, 2, 1, PROMISED, 500)


class Run:
    """One seed's network and its lines.

    Args:
        setting: how much.
        seed: of the weights and the rows' order.
        folder: keeps everything.
        cores: threads of the training; None takes all.
    """

    def __init__(self, setting: Setting, seed: int, folder: Path, cores: int | None) -> None:
        self.setting, self.seed, self.folder = setting, seed, folder
        self.task: Task = fashion_mnist(
            width=setting.width, blocks=(2, 2, 2, 2), train_rows=setting.rows, selection_rows=setting.selection
        )
        self.train = TrainConfig(epochs=setting.epochs, batch_size=128, seed=seed, threads=cores)

    def original(self) -> nn.Module:
        """The trained network; at once where it was trained before."""
        model = build_model(self.task, self.seed)
        fit(model, self.task, self.train, folder=self.folder / "original")
        return model

    def line(self, name: str) -> Iterator[tuple[float, nn.Module]]:
        """The network at each point of a line; what was computed before comes back at once."""
        model = self.original()
        cut = self._alone(model) if name == ALONE else partial(self._round, name)
        before = 1.0
        for keep in self.setting.keeps:
            model = cut(model, before, keep)
            yield keep, model
            before = keep

    def _round(self, importance: str, model: nn.Module, before: float, keep: float) -> nn.Module:
        left = keep / before
        config = PruneConfig.model_validate(
            {
                "keep": left,
                "every": (1 - left) / 2,
                "importance": importance,
                "finetune_epochs": self.setting.between / 2,
                "least": 0.05,
            }
        )
        folder = self.folder / importance / f"{keep}"
        return Prune(config).apply(model, StepContext(self.task, self.train, here(), folder, SILENT))[0]

    def _alone(self, original: nn.Module) -> Callable[[nn.Module, float, float], nn.Module]:
        import torch_pruning

        image = torch.from_numpy(self.task.parts.train.batch(np.arange(2))[0]["image"])
        pruner = torch_pruning.pruner.BasePruner(
            original.eval(),
            image,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
            global_pruning=True,
            pruning_ratio=0.95,
            max_pruning_ratio=0.95,
            iterative_steps=200,
            ignored_layers=[original.get_submodule("classifier")],
        )
        whole = parameters(original)

        def cut(model: nn.Module, before: float, keep: float) -> nn.Module:
            for half in ((before + keep) / 2, keep):
                while parameters(model) > half * whole:
                    pruner.step()
                settings = self.train.model_copy(
                    update={"epochs": self.setting.between / 2, "lr": self.train.lr * PruneConfig().finetune_lr}
                )
                fit(model, self.task, settings, folder=self.folder / "alone" / f"{half:.3f}")
                recalibrate(model, self.task, self.seed, self.train.batch_size)
            return model

        return cut

    def points(self, name: str) -> list[dict[str, float]]:
        """Of each point of a line: the share of the parameters left, and the accuracy on selection rows."""
        whole, found = parameters(build_model(self.task)), []
        for keep, model in self.line(name):
            kept = self.folder / "points" / f"{name}-{keep}.json"
            if not kept.is_file():
                accuracy = float(self.rows(model, "selection").mean())
                make_folder(kept.parent)
                if keep in PROMISED:
                    example, _ = self.task.parts.train.batch(np.arange(2))
                    OnnxExport().write(model, example, self.task.output_names, kept.with_suffix(".onnx"))
                write_atomic(kept, json.dumps({"share": parameters(model) / whole, "selection": accuracy}))
            found.append({"keep": keep, **json.loads(kept.read_text())})
            print(f"seed {self.seed}, {name}: {found[-1]}", flush=True)
        return found

    def rows(self, model: nn.Module, part: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The score of each row of a part."""
        outputs, targets = predict(model, getattr(self.task.parts, part), self.task.output_names)
        return np.asarray(self.task.metric.rows(outputs, targets), np.float64)

    def promised(self, importance: str) -> list[dict[str, Any]]:
        """Test accuracy and latency of the promised shares, of one importance and of torch-pruning alone."""
        original = self.original()
        base = self.rows(original, "test")
        found: list[dict[str, Any]] = []
        files: dict[tuple[str, float], Path] = {}
        for name in (importance, ALONE):
            for keep, model in self.line(name):
                if keep in PROMISED:
                    files[name, keep] = self.folder / "points" / f"{name}-{keep}.onnx"
                    accuracy = compare(base, self.rows(model, "test"), metric="accuracy", confidence=CONFIDENCE)
                    found.append({"line": name, "keep": keep, **accuracy.model_dump(mode="json")})
        faster = self.latency(original, files)
        return [{**row, "seed": self.seed, "faster": faster[row["line"], row["keep"]]} for row in found]

    def latency(
        self, original: nn.Module, files: dict[tuple[str, float], Path]
    ) -> dict[tuple[str, float], list[float]]:
        """Low, median and high of how many times as fast as the original in eager PyTorch, one thread."""
        image = self.task.parts.selection.batch(np.arange(1))[0]
        tensor = torch.from_numpy(image["image"])

        def eager() -> None:
            with torch.inference_mode():
                original(tensor)

        sessions = {key: OnnxRuntime().load(file) for key, file in files.items()}
        runs = {f"{key}": partial(session.run, image) for key, session in sessions.items()}
        with threads(1):
            ms = interleave({"eager": eager, **runs}, seconds=10 if self.setting is FULL else 1)
        return {key: list(speedup(ms["eager"], ms[f"{key}"], CONFIDENCE)) for key in sessions}


def parameters(model: nn.Module) -> int:
    """How many."""
    return sum(parameter.numel() for parameter in model.parameters())


def best(curves: dict[str, dict[str, list[float]]]) -> str:
    """The importance of the greatest accuracy on selection rows, over seeds and the promised shares."""
    return max(LINES[:-1], key=lambda name: np.mean([curves[name][f"{keep}"] for keep in PROMISED]))


def section(
    setting: Setting,
    curves: dict[str, dict[str, list[float]]],
    base: list[float],
    promised: list[dict[str, Any]],
    seeds: list[int],
    minutes: float,
) -> str:
    """The figures as Markdown."""
    middle = {name: [float(np.median(values)) for values in points.values()] for name, points in curves.items()}
    lines = [
        "## ResNet-18 on Fashion-MNIST, pruned",
        "",
        f"{taken()} with `python -m benchmarks.prune --seeds {' '.join(map(str, seeds))}`, in {minutes:.0f} minutes.",
        f"{machine()}. {setting.rows:,} training rows, {setting.epochs:g} epochs, then {setting.between:g} from one",
        f"point to the next; seeds {seeds}. Accuracy on {setting.selection:,} selection rows (before: "
        f"{np.median(base):.4f}), median of the seeds (least-greatest):",
        "",
        "| parameters left | " + " | ".join(f"{keep:.0%}" for keep in setting.keeps) + " |",
        "|---|" + "---|" * len(setting.keeps),
    ]
    for name, points in curves.items():
        cells = [f"{np.median(v):.4f} ({min(v):.4f}-{max(v):.4f})" for v in points.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "```mermaid",
        "xychart-beta",
        f'  title "accuracy by parameters left: {", ".join(LINES)}"',
        f"  x-axis [{', '.join(f'{keep:.0%}' for keep in setting.keeps)}]".replace("%", ""),
        *(f"  line [{', '.join(f'{value:.4f}' for value in values)}]" for values in middle.values()),
        "```",
        "",
        "On all test rows. Kept at least: of the original's accuracy, 95% confidence. Faster: than eager PyTorch.",
        "",
        "| line | left | seed | accuracy | kept at least | faster |",
        "|---|---|---|---|---|---|",
    ]
    for row in promised:
        low, median, high = row["faster"]
        lines.append(
            f"| {row['line']} | {row['keep']:.0%} | {row['seed']} | {row['value']:.4f} | {row['kept_interval'][0]:.2%} "
            f"| {median:.2f} ({low:.2f}-{high:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prune, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, help="of the training; every core by default")
    parser.add_argument("--work", type=Path, help="keeps what is computed; below HEADWAY_HOME by default")
    parser.add_argument("--small", action="store_true", help="a small network, a few minutes, nothing written")
    asked = parser.parse_args()
    setting, began = SMALL if asked.small else FULL, monotonic()
    work = asked.work or home() / "cache" / "benchmarks" / ("prune-small" if asked.small else "prune")
    runs = [Run(setting, seed, work / f"seed-{seed}", asked.threads) for seed in asked.seeds]
    curves: dict[str, dict[str, list[float]]] = {name: {} for name in LINES}
    for run in runs:
        for name in LINES:
            for point in run.points(name):
                curves[name].setdefault(f"{point['keep']}", []).append(point["selection"])
    base = [float(run.rows(run.original(), "selection").mean()) for run in runs]
    promised = [row for run in runs for row in run.promised(best(curves))]
    text = section(setting, curves, base, promised, asked.seeds, (monotonic() - began) / 60)
    if asked.small:
        print(text)
    else:
        write("prune", text)
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
