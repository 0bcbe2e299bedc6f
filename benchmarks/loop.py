"""What the training loop costs beside a bare loop written by hand, Lightning Fabric and Accelerate; writes into
benchmarks/RESULTS.md.

    python -m benchmarks.loop [--steps 600] [--small]

All train the same weights on the same batches with AdamW, one thread, in one process, and take turns step by step. The
bare loop is what its author would write who wants nothing but a trained network: batch, forward, loss, backward,
clipped gradients, a fused step, and the loss for the progress line. Headway also looks whether loss and gradients are
finite, seeds each batch by its place in the plan, follows its schedule, and holds signals back; with its health watch,
and without. A ratio is of blocks of 20 steps that were neighbours; the time is a thread's own CPU time, which on one
thread is the step.
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
from benchmarks.results import RESULTS, machine, taken, write
from torch import nn
from torch.nn import functional

from headway.core.files import home, write_atomic
from headway.measure.order import median_interval
from headway.tasks import Task
from headway.tasks.factory import build_model
from headway.tasks.images import digits, fashion_mnist
from headway.train.config import TrainConfig
from headway.train.loop import fit
from headway.train.monitor import Monitor, StepDone
from headway.train.plan import Plan

BLOCK = 20
PACKAGES = ("accelerate==1.15.0", "lightning-fabric==2.6.6", "lightning-utilities==0.15.3")
NAMES = ("bare", "Headway", "Headway, watched", "Lightning Fabric", "Accelerate")
BARE = NAMES[0]
Tick = Callable[[], None]
Wrapped = tuple[nn.Module, torch.optim.Optimizer, Callable[[torch.Tensor], object]]
Wrap = Callable[[nn.Module, torch.optim.Optimizer], Wrapped]


class Turns:
    """Lets each of several threads do one step, in a circle."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._turns = {name: threading.Semaphore(0) for name in names}
        self._began: dict[str, float] = {}
        self._gone: set[str] = set()
        self.spent: dict[str, list[float]] = {name: [] for name in names}

    def start(self) -> None:
        """Let the first one begin."""
        self._turns[self._names[0]].release()

    def wait(self, name: str) -> None:
        """Wait for the first turn."""
        self._turns[name].acquire()
        self._began[name] = time.thread_time()

    def tick(self, name: str) -> None:
        """A step is done: let the next one do one."""
        self.spent[name].append(time.thread_time() - self._began[name])
        self._next(name)
        self.wait(name)

    def leave(self, name: str) -> None:
        """No more steps will come."""
        self._gone.add(name)
        self._next(name)

    def _next(self, name: str) -> None:
        at = self._names.index(name)
        circle = [*self._names[at + 1 :], *self._names[: at + 1]]
        left = [other for other in circle if other not in self._gone]
        if left:
            self._turns[left[0]].release()


class Watch(Monitor):
    """Takes turns after each step of Headway's loop."""

    def __init__(self, turns: Turns, name: str) -> None:
        self.turns, self.name = turns, name

    def started(self, model: nn.Module, step: int, forward: Callable[[], object]) -> None:
        """Wait for the first turn."""
        self.turns.wait(self.name)

    def after_step(self, done: StepDone) -> None:
        """Give the turn away."""
        self.turns.tick(self.name)


def by_hand(task: Task, plan: Plan, tick: Tick, wrap: Wrap) -> None:
    """The bare loop; `wrap` may put the model and the optimizer into a library's own, and says how to go backwards."""
    model = build_model(task, plan.config.seed).train().to(memory_format=torch.channels_last)
    model, optimizer, backward = wrap(model, torch.optim.AdamW(model.parameters(), lr=plan.config.lr, fused=True))
    for step in range(plan.steps):
        (rows,) = plan.batches(step)
        inputs, targets = task.parts.train.batch(rows)
        images = torch.from_numpy(inputs["image"])
        if task.augment is not None:
            images = task.augment({"image": images})["image"]
        outputs = model(images.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(outputs, torch.from_numpy(targets))
        optimizer.zero_grad(set_to_none=True)
        backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        tick()


def bare(model: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
    """As PyTorch has it."""
    return model, optimizer, torch.autograd.backward


def fabric(model: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
    """Lightning Fabric's."""
    from lightning_fabric import Fabric

    made = Fabric(accelerator="cpu", devices=1, precision="32-true")
    model, optimizer = made.setup(model, optimizer)
    return model, optimizer, made.backward


def accelerate(model: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
    """Hugging Face Accelerate's."""
    from accelerate import Accelerator

    made = Accelerator(cpu=True)
    model, optimizer = made.prepare(model, optimizer)
    return model, optimizer, made.backward


def ours(task: Task, plan: Plan, watch: Watch, policy: str) -> None:
    """Headway's loop."""
    config = plan.config.model_copy(update={"health": plan.config.health.model_copy(update={"policy": policy})})
    fit(build_model(task, config.seed), task, config, monitors=[watch])


def packages() -> None:
    """The peers, in a folder of their own beside this environment's torch."""
    folder = home() / "cache" / "benchmarks" / "loop-peers"
    kept = folder / "packages.txt"
    if not kept.is_file() or kept.read_text() != "\n".join(PACKAGES):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", folder]
        subprocess.run([*pip, *PACKAGES], check=True)
        write_atomic(kept, "\n".join(PACKAGES))
    sys.path.append(str(folder))


def compare(task: Task, steps: int) -> dict[str, list[float]]:
    """CPU seconds of each step, by who did it."""
    config = TrainConfig.model_validate(
        {"epochs": 1, "batch_size": 64, "threads": 1, "device": "cpu", "precision": "fp32"}
    )
    whole = Plan(len(task.parts.train), config).steps
    plan = Plan(len(task.parts.train), config.model_copy(update={"epochs": steps / whole}))
    turns = Turns(list(NAMES))

    def peer(name: str, wrap: Wrap) -> None:
        turns.wait(name)
        by_hand(task, plan, lambda: turns.tick(name), wrap)
        turns.leave(name)

    def headway(name: str, policy: str) -> None:
        ours(task, plan, Watch(turns, name), policy)
        turns.leave(name)

    work = ((peer, bare), (headway, "off"), (headway, "warn"), (peer, fabric), (peer, accelerate))
    threads = [threading.Thread(target=run, args=(name, how)) for name, (run, how) in zip(NAMES, work, strict=True)]
    for thread in threads:
        thread.start()
    turns.start()
    for thread in threads:
        thread.join()
    return turns.spent


def row(network: str, spent: dict[str, list[float]]) -> str:
    """A line of the table."""
    ends = min(map(len, spent.values())) // BLOCK * BLOCK
    blocks = {name: np.reshape(seconds[:ends], (-1, BLOCK)).sum(axis=1)[1:] for name, seconds in spent.items()}
    cells = [f"{np.median(spent[BARE]) * 1000:.2f}"]
    for name in list(blocks)[1:]:
        low, middle, high = median_interval(blocks[name] / blocks[BARE], 0.95)
        cells.append(f"{middle:.3f} ({low:.3f}-{high:.3f})")
    return f"| {network} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--small", action="store_true", help="few steps of one network; nothing written")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    packages()
    tasks = {"digits, width 8": digits(width=8), "digits, width 32": digits(width=32)}
    if not asked.small:
        tasks["residual net, width 16"] = fashion_mnist(train_rows=10_000)
    compare(tasks["digits, width 8"], 3)  # libraries have settled
    rows = [row(network, compare(task, 60 if asked.small else asked.steps)) for network, task in tasks.items()]
    lines = [
        "## The training loop beside others",
        "",
        f"{taken()} with `python -m benchmarks.loop --steps {asked.steps}`.",
        f"{machine()}; one thread, batches of 64, 32-bit floats. {', '.join(PACKAGES)}.",
        "",
        "CPU time of a step, as a multiple of the bare loop's: medians of neighbouring blocks of 20 steps and their",
        "95% limits, each one-sided. The goal: at most 1.02, and not above the libraries'.",
        "",
        f"| network | {BARE}, ms a step | {' | '.join(NAMES[1:])} |",
        "|---" * (len(NAMES) + 1) + "|",
        *rows,
    ]
    print("\n".join(lines))
    if not asked.small:
        write("loop", "\n".join(lines))
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
