"""What watching a training run costs: `train.health` and the run's record, against neither.

    python -m benchmarks.health

Trainings in turn, each from the same weights over the same rows, one thread; CPU time of the whole `fit`, the look at
the initialisation included. Ratios are of neighbouring trainings.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.results import RESULTS, machine, taken, write

from headway.runs.record import recording
from headway.tasks.factory import build_model
from headway.tasks.images import digits
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.monitor import Monitor
from headway.train.run_log import RunLog

WIDTHS = (8, 32)


def cpu_ms(width: int, policy: str, epochs: float, monitors: Sequence[Monitor] = ()) -> float:
    """CPU time of a step, in ms."""
    task = digits(width=width)
    values = {"epochs": epochs, "batch_size": 64, "threads": 1, "device": "cpu", "health": {"policy": policy}}
    config = TrainConfig.model_validate(values)
    model = build_model(task)
    began = time.process_time()
    result = fit(model, task, config, monitors=monitors)
    return 1000 * (time.process_time() - began) / result.steps


def compare(width: int, epochs: float, rounds: int) -> str:
    """A line of the table."""
    ratios, plain = [], []
    cpu_ms(width, "off", 0.2)
    for i in range(rounds):
        took = {}
        for policy in ("off", "warn") if i % 2 else ("warn", "off"):
            if policy == "off":
                took[policy] = cpu_ms(width, policy, epochs)
                continue
            with recording("train", "cost", base=Path(), recipe={}) as run:
                took[policy] = cpu_ms(width, policy, epochs, [RunLog(run)])
        ratios.append(took["warn"] / took["off"])
        plain.append(took["off"])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"| digits, width {width} | {np.median(plain):.1f} | {middle:.3f} ({low:.3f}-{high:.3f}) |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=8, help="of a training")
    parser.add_argument("--rounds", type=int, default=15, help="of two trainings each")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADWAY_HOME"] = folder
        rows = [compare(width, asked.epochs, asked.rounds) for width in WIDTHS]
    lines = [
        "## What watching a training run costs",
        "",
        f"{taken()} with `python -m benchmarks.health --epochs {asked.epochs:g} --rounds {asked.rounds}`.",
        f"{machine()}; one thread.",
        "",
        "Health with its defaults and a record, against neither; CPU time of whole trainings in turn. The ratio is of",
        "neighbouring trainings: median and quartiles.",
        "",
        "| network | ms a step without | ratio |",
        "|---|---|---|",
        *rows,
    ]
    write("health", "\n".join(lines))
    print("\n".join(rows), f"written to {RESULTS}", sep="\n")


if __name__ == "__main__":
    main()
