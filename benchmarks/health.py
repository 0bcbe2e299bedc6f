"""What watching a training run costs: `train.health` and the run's record, against neither.

    python -m benchmarks.health

Two trainings of the same weights over the same rows take turns step by step, one thread each; what counts is the CPU
time of a turn. Ratios are of neighbouring blocks of 20 steps, each with one look at every tensor.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.results import RESULTS, machine, taken, write

from headway.runs.record import recording
from headway.tasks.factory import build_model
from headway.tasks.images import digits
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.monitor import Monitor, StepDone
from headway.train.run_log import RunLog

WIDTHS = (8, 32)
BLOCK = 20


class Turns(Monitor):
    """Lets a training do one step, and then the other."""

    def __init__(self, mine: threading.Semaphore, other: threading.Semaphore) -> None:
        self.mine, self.other, self.spent = mine, other, list[float]()

    def started(self, model: torch.nn.Module, step: int, forward: Callable[[], object]) -> None:
        """Wait for the first turn."""
        self.mine.acquire()
        self.began = time.thread_time()

    def after_step(self, done: StepDone) -> None:
        """Give the turn away, and wait for the next."""
        self.spent.append(time.thread_time() - self.began)
        self.other.release()
        self.mine.acquire()
        self.began = time.thread_time()


def spent(width: int, epochs: float) -> tuple[list[float], list[float]]:
    """CPU seconds of each step, without watching and with it."""
    turns = (threading.Semaphore(1), threading.Semaphore(0))
    watches = Turns(turns[0], turns[1]), Turns(turns[1], turns[0])

    def train(watch: Turns, policy: str, first: list[Monitor]) -> None:
        values = {"epochs": epochs, "batch_size": 64, "threads": 1, "device": "cpu", "health": {"policy": policy}}
        task = digits(width=width)
        fit(build_model(task), task, TrainConfig.model_validate(values), monitors=[*first, watch])
        watch.other.release()

    with recording("train", "cost", base=Path(), recipe={}) as run:
        plain = threading.Thread(target=train, args=(watches[0], "off", []))
        watched = threading.Thread(target=train, args=(watches[1], "warn", [RunLog(run)]))
        for thread in (plain, watched):
            thread.start()
        for thread in (plain, watched):
            thread.join()
    return watches[0].spent, watches[1].spent


def compare(width: int, epochs: float) -> str:
    """A line of the table."""
    plain, watched = (np.array(seconds) for seconds in spent(width, epochs))
    ends = len(plain) // BLOCK * BLOCK
    without, with_ = (seconds[:ends].reshape(-1, BLOCK).sum(axis=1)[1:] for seconds in (plain, watched))
    low, middle, high = np.quantile(with_ / without, [0.25, 0.5, 0.75])
    first = (watched[0] - plain[0]) * 1000
    return (
        f"| digits, width {width} | {np.median(plain) * 1000:.1f} | {middle:.3f} ({low:.3f}-{high:.3f}) | {first:.0f} |"
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=50, help="of each training, of 17 steps")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADWAY_HOME"] = folder
        spent(WIDTHS[0], 1)  # libraries have settled
        rows = [compare(width, asked.epochs) for width in WIDTHS]
    lines = [
        "## What watching a training run costs",
        "",
        f"{taken()} with `python -m benchmarks.health --epochs {asked.epochs:g}`.",
        f"{machine()}; one thread, on a machine that others used too.",
        "",
        "Health with its defaults and a record, against neither, step by step in turn; CPU time. The ratio is of",
        "neighbouring blocks of 20 steps: median and quartiles. The first step also looks at the initialisation.",
        "",
        "| network | ms a step without | ratio | first step, ms more |",
        "|---|---|---|---|",
        *rows,
    ]
    write("health", "\n".join(lines))
    print("\n".join(rows), f"written to {RESULTS}", sep="\n")


if __name__ == "__main__":
    main()
