"""What a worker gains when batches are costly to make: JPEG files that are decoded as the loop asks for them.

    python -m benchmarks.loader [ROUNDS]

The same small network is trained on the same files without and with one worker, in turn, on one thread each; the ratio
is taken within each round. Weights come out as the same bits. Writes a section of benchmarks/RESULTS.md.
"""

import io
import sys
from statistics import median

import numpy as np
from benchmarks.results import RESULTS, machine, taken, write
from PIL import Image

from headway.tasks import Parts, Task
from headway.tasks.factory import build_model
from headway.tasks.parts import Indices, Inputs
from headway.tasks.resnet import ResNet
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.result import TrainResult

ROWS, SIDE = 640, 28


class Files:
    """JPEG files of 500 x 400 pixels, decoded, scaled down and made grey in `batch`."""

    costly = True

    def __init__(self) -> None:
        draw, self.targets = np.random.default_rng(0), np.arange(ROWS) % 10
        self.files = [self._jpeg(draw.integers(0, 256, (12, 12, 3), np.uint8)) for _ in range(ROWS)]

    @staticmethod
    def _jpeg(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).resize((500, 400)).save(file, "JPEG")
        return file.getvalue()

    def __len__(self) -> int:
        return ROWS

    def digest(self) -> str:
        return "0" * 64

    def batch(self, rows: Indices) -> tuple[Inputs, Indices]:
        opened = (Image.open(io.BytesIO(self.files[row])) for row in rows)
        grey = [np.asarray(one.resize((SIDE, SIDE)).convert("L"), np.float32) / 255 for one in opened]
        return {"image": np.stack(grey)[:, None]}, self.targets[rows]


def net() -> ResNet:
    return ResNet((1, 1, 1), 16)


def run(workers: int) -> TrainResult:
    """Two epochs."""
    part = Files()
    task = Task(parts=Parts(part, part, part, part), model=net)
    asked = {"epochs": 2, "batch_size": 64, "threads": 1, "device": "cpu", "precision": "fp32"}
    config = TrainConfig.model_validate({**asked, "loader": {"workers": workers}, "health": {"policy": "off"}})
    return fit(build_model(task), task, config)


def main() -> None:
    rounds = [(run(0), run(1)) for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 7)]
    assert all(alone.loss == beside.loss for alone, beside in rounds)
    gains = sorted(alone.seconds / beside.seconds for alone, beside in rounds)
    waits = [median(result.waited / result.seconds for result in column) for column in zip(*rounds, strict=True)]
    rate = [median(2 * ROWS / result.seconds for result in column) for column in zip(*rounds, strict=True)]
    text = f"""## Costly batches: a worker beside training

JPEG files of 500 x 400 pixels are decoded in `batch`; a ResNet of 28 x 28 inputs learns on one thread, on the CPU.
{len(rounds)} rounds, without and with one worker in turn.

| | rows/s | waits for data |
|---|---|---|
| `train.loader.workers: 0` | {rate[0]:,.0f} | {waits[0]:.0%} |
| `train.loader.workers: 1` | {rate[1]:,.0f} | {waits[1]:.0%} |

**{median(gains):.2f} times as fast** (rounds from {gains[0]:.2f} to {gains[-1]:.2f}); the loss is the same bits.
Nothing here says what several workers do beside an accelerator.

{taken()} with `python -m benchmarks.loader`. {machine()}."""
    write("loader", text)
    print(text, f"\n\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
