"""What checkpointing gains and costs in training; writes into benchmarks/RESULTS.md.

    python -m benchmarks.checkpoints [--rounds 7] [--small]

Activations: an encoder of the BERT architecture does one training step on 16 texts of 128 tokens, in a process of its
own for each setting of `train.checkpoint_activations`; what counts is the peak beyond weights and gradients.

Files: two processes train together and save weights and optimizer, 300 MB of them, while they work: in the background
as `headway train` does, and again waiting for the disk. A stall is what a block of steps with a save takes longer than
its neighbour without one, the slower steps beside the writing included.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.results import RESULTS, machine, taken, write

from headway.core.heap import trim
from headway.measure.memory import forget_peak, resident
from headway.measure.order import median_interval
from headway.tasks.encoder import Classifier, Encoder
from headway.train.blocks import recomputed
from headway.train.config import TrainConfig
from headway.train.dcp import Writer
from headway.train.world import join

MODES = ("none", "selective", "full")
KINDS = ("none", "background", "waiting")
WIDTH, LAYERS, STEPS = 1024, 24, 40  # 25M parameters; steps in a block


def activations(mode: str) -> list[float]:
    """MB at the peak of a step beyond what was there before it, and its seconds."""
    torch.set_num_threads(1)
    model = Classifier(Encoder(1000, 128, 12, 6, 384, 1536), 384, 2).train()

    def step(rows: int) -> None:
        ids = torch.randint(0, 1000, (rows, 128))
        torch.autograd.backward(model(ids, torch.ones_like(ids)).square().mean())

    with recomputed(model, mode):  # type: ignore[arg-type]
        step(1)  # gradients and kernels are there
        trim()
        before = resident("VmRSS")
        forget_peak()
        began = time.process_time()
        step(16)
        return [(resident("VmHWM") - before) / 1e6, time.process_time() - began]


def stalls(rank: int, rounds: int, width: int, folder: str, answer: Connection) -> None:
    """Seconds of blocks of steps, [rounds, kinds], as one of two processes."""
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(1)
    with join(TrainConfig.model_validate({"device": "cpu"})) as world:
        model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(LAYERS)))
        optimizer = torch.optim.AdamW(model.parameters())
        batch = torch.randn(32, width)

        def block(kind: str, number: int) -> float:
            world.agree(True)
            began = time.perf_counter()
            if kind != "none":
                writer.start(number, {}, model, optimizer)
            if kind == "waiting":
                writer.wait()
            for _ in range(STEPS):
                optimizer.zero_grad()
                torch.autograd.backward(model(batch).square().mean())
            world.agree(True)  # the slower one counts
            spent = time.perf_counter() - began
            writer.wait()  # a write that outlasts its block would stall the next save, which a run has far from it
            return spent

        torch.autograd.backward(model(batch).square().mean())
        optimizer.step()
        writer = Writer(Path(folder), "run", world, 1)
        block("waiting", 0)
        found = [[block(kind, 1 + 3 * turn + i) for i, kind in enumerate(KINDS)] for turn in range(rounds)]
        writer.close()
    answer.send(found)


def stalled(rounds: int, width: int) -> np.ndarray[Any, Any]:
    """Of both processes' blocks, the first one's, which waits for the other."""
    folder = tempfile.mkdtemp(prefix="headway-bench-")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    os.environ.update({**place, "TORCHELASTIC_USE_AGENT_STORE": "True"})
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe(duplex=False)
    started = [spawn.Process(target=stalls, args=(rank, rounds, width, folder, theirs)) for rank in range(2)]
    try:
        for process in started:
            process.start()
        found = mine.recv()
        for process in started:
            process.join()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return np.array(found)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="a small network, two rounds; nothing written")
    parser.add_argument("--activations", choices=MODES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.activations:
        print(json.dumps(activations(asked.activations)))
        return
    rounds = 2 if asked.small else asked.rounds
    command = [sys.executable, "-m", "benchmarks.checkpoints", "--activations"]
    found = {
        mode: json.loads(subprocess.run([*command, mode], check=True, capture_output=True, text=True).stdout)
        for mode in MODES
    }
    blocks = stalled(rounds, 128 if asked.small else WIDTH)
    background, waiting = (blocks[:, i] - blocks[:, 0] for i in (1, 2))
    low, middle, high = median_interval(background / waiting, 0.95)
    lines = [
        "## Checkpointing in training",
        "",
        f"{taken()} with `python -m benchmarks.checkpoints --rounds {rounds}`. {machine()}; one thread a process.",
        "",
        "| `checkpoint_activations` | MB at the peak | of none's | CPU time of the step, of none's |",
        "|---|---|---|---|",
        *(
            f"| {mode} | {mb:.0f} | {mb / found['none'][0]:.0%} | {seconds / found['none'][1]:.2f} |"
            for mode, (mb, seconds) in found.items()
        ),
        "",
        f"Goal: 60% less: {'reached' if found['full'][0] <= 0.4 * found['none'][0] else '**not reached**'} by `full`.",
        "",
        f"Two processes, two cores, a block of {STEPS} steps takes {np.median(blocks[:, 0]):.2f} s; a save that is",
        f"waited for adds {np.median(waiting):.2f} s, one in the background {np.median(background):.2f} s:",
        f"{middle:.0%} ({low:.0%}-{high:.0%}) of it.",
        f"Goal: at most 10%: {'reached' if high <= 0.1 else '**not reached**'}.",
    ]
    print("\n".join(lines))
    if not asked.small:
        write("checkpoints", "\n".join(lines))
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
