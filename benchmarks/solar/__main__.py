"""A MobileNetV2 fine-tuned on solar cells, in 8 bits and pruned, beside what exists; writes a section of
benchmarks/RESULTS.md.

    python -m benchmarks.solar [--work FOLDER] [--skip LINE ...] [--small]

Data and folds: `cells.py`. Each fold's network is fine-tuned from ImageNet's weights, and each form is made from it, on
the same calibration rows, or trained for as long. Of our static forms the one with the best accuracy on selection rows,
over all folds, is chosen; test rows are read after that. Each test row was answered by one network, so that all of them
together are one paired comparison with FP32 in ONNX Runtime. What is trained again is of the first fold alone. Latency:
the first fold's files, one row, one thread, all in turn; OpenVINO runs in a process of its own behind pipes.

Everything is kept in the folder, and a run that was interrupted goes on. `--small` takes a minute or two and only
prints.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from benchmarks.quantizers import nncf
from benchmarks.results import RESULTS, write
from benchmarks.solar.cells import FOLDER, folds
from benchmarks.solar.fold import DEFAULTS, DYNAMIC, EAGER, FP32, FULL, MIXED, SMALL, Fold, Setting
from benchmarks.solar.report import Line, section
from numpy.typing import NDArray

from headway.compress.qdq import fusion
from headway.core.files import make_folder
from headway.measure.accuracy import compare
from headway.measure.latency import interleave, speedup

CONFIDENCE = 0.95
SOUND = 1  # the class "sound"; "defective" is 0
Rows = NDArray[np.float64]


def right(fold: Fold, line: str, part: str) -> Rows:
    """1 for each row of a part that is answered right."""
    targets = np.asarray(getattr(fold.task.parts, part).targets)
    return (fold.logits(line, part).argmax(axis=1) == targets).astype(np.float64)


def auc(fold: Fold, line: str) -> float:
    """Area under the ROC curve on the fold's test rows."""
    from sklearn.metrics import roc_auc_score

    logits = fold.logits(line, "test").astype(np.float64)
    return float(roc_auc_score(fold.task.parts.test.targets == SOUND, logits[:, SOUND] - logits[:, 1 - SOUND]))  # type: ignore[attr-defined]


def chosen(lines: Mapping[str, Sequence[Rows]], distance: Mapping[str, float]) -> str:
    """The line of the best accuracy on selection rows; where some are equal, the one whose outputs are nearest."""
    return max(lines, key=lambda line: (np.concatenate(lines[line]).mean(), -distance[line]))


def latency(fold: Fold, lines: Sequence[str], seconds: float) -> dict[str, Rows]:
    """Milliseconds of one row, [rounds, runs], of each line, in turn."""
    with ExitStack() as stack:
        sessions = {line: stack.enter_context(fold.session(line)) for line in lines}
        runs = {line: fold.runs(line, session) for line, session in sessions.items()}
        return interleave(runs, seconds=seconds)


def measure(setting: Setting, work: Path, seconds: float) -> tuple[dict[str, Line], str, list[dict[str, Any]]]:
    """Every line's figures, which of ours was chosen, and what is known of the layers that plain min-max hurts."""
    make_folder(work)
    with nncf.pictures(work) as peer:
        tasks = folds(setting.folds, setting.side, most=setting.most)
        every = [Fold(setting, task, number, work / f"fold-{number}", peer) for number, task in enumerate(tasks)]
        selected: dict[str, list[Rows]] = {}
        for line in (FP32, *setting.ours):
            selected[line] = [right(fold, line, "selection") for fold in every]
            print(f"{line}: selection {[round(float(rows.mean()), 4) for rows in selected[line]]}", flush=True)
        best = chosen(
            {line: selected[line] for line in setting.ours}, {line: off(every, line) for line in setting.ours}
        )
        used = dict.fromkeys((FP32, *setting.ours, *DEFAULTS.values(), DYNAMIC), every)
        used |= dict.fromkeys(setting.first, every[:1])
        test = {line: [right(fold, line, "test") for fold in some] for line, some in used.items()}
        ms = latency(every[0], [EAGER, *used], seconds)
        found = {}
        for line, some in used.items():
            base = np.concatenate(test[FP32][: len(some)])
            file = None if line == DYNAMIC else every[0].file(line)
            found[line] = Line(
                rows=len(base),
                selection=float(np.concatenate(selected[line]).mean()) if line in selected else None,
                base=float(base.mean()),
                accuracy=compare(base, np.concatenate(test[line]), metric="accuracy", confidence=CONFIDENCE),
                folds=tuple(float(rows.mean()) for rows in test[line]),
                auc=float(np.mean([auc(fold, line) for fold in some])),
                speed=speedup(ms[EAGER], ms[line], CONFIDENCE),
                ms=float(np.median(ms[line])),
                quickest=float(ms[line].min()),
                mb=size(file) / 1e6 if file else None,
                layers=fusion(file) if file and file.suffix == ".onnx" else None,
            )
        story = every[0].folder / f"{MIXED}.json"
        return found, best, json.loads(story.read_text())["ranking"] if story.is_file() else []


def off(every: Sequence[Fold], line: str) -> float:
    """How far a line's logits on selection rows are from those in FP32: norm by norm."""
    want, have = (np.concatenate([fold.logits(name, "selection") for fold in every]) for name in (FP32, line))
    return float(np.linalg.norm(have - want) / np.linalg.norm(want))


def size(file: Path) -> int:
    """Bytes of a model; OpenVINO's has two files."""
    both = (file, file.with_suffix(".bin")) if file.suffix == ".xml" else (file,)
    return sum(part.stat().st_size for part in both)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="keeps what is computed")
    parser.add_argument("--small", action="store_true", help="few small pictures, a minute or two, nothing written")
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=FULL.first, help="lines of the first fold to leave out"
    )
    asked = parser.parse_args()
    setting, began = SMALL if asked.small else FULL, monotonic()
    setting = replace(setting, first=tuple(line for line in setting.first if line not in asked.skip))
    work = asked.work or FOLDER / ("work-small" if asked.small else "work")
    lines, best, ranking = measure(setting, work, 5 if asked.small else 40)
    text = section(setting, lines, best, ranking, asked.skip, (monotonic() - began) / 60)
    print(text)
    if not asked.small:
        write("solar", text)
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
