"""How much memory a model takes in eager PyTorch, in ONNX Runtime and in OpenVINO; writes into benchmarks/RESULTS.md.

    python -m benchmarks.memory [--rounds 3] [--small]

Every figure is of a process of its own that imports the engine, loads the weights from a file, and runs one batch ten
times, one thread: what it takes beyond the engine alone. Weights are random, which memory does not hang on. Unused is
the share of what is resident at the end that the C library has not given out (mallinfo2(3)): what lies free between
blocks, and weights that a library mapped from their file.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.results import RESULTS, machine, taken, write

from headway.core import plugins
from headway.core.tensors import Array
from headway.measure.memory import resident

EAGER = "eager PyTorch"
ENGINES = {EAGER: "", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
GOAL = 0.4  # less than eager at the peak


class Subject(NamedTuple):
    """A model, and the inputs of so many rows."""

    module: Callable[[], Any]
    inputs: Callable[[int], dict[str, Array]]
    batches: tuple[int, ...]


def _resnet() -> Any:
    from headway.tasks.resnet import resnet18

    return resnet18()


def _mobilenet() -> Any:
    from headway.tasks.mobilenet import mobilenet_v2

    return mobilenet_v2(10)


def _encoder() -> Any:
    from headway.tasks.encoder import Classifier, Encoder

    return Classifier(Encoder(30522, 512, 6, 12, 384, 1536), 384, 2)


def _picture(side: int, rows: int) -> dict[str, Array]:
    return {"image": np.random.default_rng(0).random((rows, 3, side, side), np.float32)}


def _text(tokens: int, rows: int) -> dict[str, Array]:
    ids = np.random.default_rng(0).integers(0, 30522, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


SUBJECTS = {
    "ResNet-18, 64 x 64 pixels": Subject(_resnet, partial(_picture, 64), (1, 32)),
    "MobileNetV2, 224 x 224 pixels": Subject(_mobilenet, partial(_picture, 224), (1, 32)),
    "MiniLM-sized encoder, 128 tokens": Subject(_encoder, partial(_text, 128), (1, 32)),
}


class Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    )


def used() -> float:
    """Bytes that the C library has given out."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Heap
    found = ask()
    return float(found.uordblks + found.hblkhd)


def child(engine: str, subject: str, rows: int, file: str) -> None:
    """Load, run, and print what that took: MB after loading, at the peak, at the end, and the unused share."""
    about = SUBJECTS[subject]
    inputs = about.inputs(rows)
    load = partial(_eager(about) if engine == EAGER else _compiled(ENGINES[engine]), Path(file))
    before, given = resident("VmRSS"), used()
    run = load()
    loaded = resident("VmRSS")
    for _ in range(10):
        run(inputs)
    ends = [value - before for value in (loaded, resident("VmHWM"), resident("VmRSS"))]
    unused = max(0.0, 1 - (used() - given) / ends[-1])
    sys.stdout.write(json.dumps([*(end / 1e6 for end in ends), unused]))


def _eager(about: Subject) -> Callable[[Path], Callable[[Mapping[str, Array]], object]]:
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    torch.nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 8, 8))  # loads what every network needs
    with torch.device("meta"):
        model = about.module().eval()

    def load(file: Path) -> Callable[[Mapping[str, Array]], object]:
        model.load_state_dict(load_file(file), assign=True)  # nothing is there twice
        return run

    def run(inputs: Mapping[str, Array]) -> object:
        with torch.inference_mode():
            return model(*map(torch.from_numpy, inputs.values()))

    return load


def _compiled(name: str) -> Callable[[Path], Callable[[Mapping[str, Array]], object]]:
    engine = plugins.load("headway.runtimes", name)()
    engine.available()  # imports it

    def load(file: Path) -> Callable[[Mapping[str, Array]], object]:
        session = engine.load(file.with_suffix(".onnx"))
        return lambda inputs: session.run(inputs)

    return load


def _prepare(about: Subject, file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from headway.export.onnx import OnnxExport

    torch.manual_seed(0)
    model = about.module().eval()
    save_file(model.state_dict(), file)
    OnnxExport().write(model, about.inputs(2), ("logits",), file.with_suffix(".onnx"))


def measured(subject: str, rounds: int, folder: Path) -> dict[tuple[str, int], list[float]]:
    """Medians over processes, by engine and rows; engines take turns."""
    about, file = SUBJECTS[subject], folder / "model.safetensors"
    _prepare(about, file)
    found: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(rounds):
        for rows in about.batches:
            for engine in ENGINES:
                command = [sys.executable, "-m", "benchmarks.memory", "--child", engine, subject, str(rows), str(file)]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found.setdefault((engine, rows), []).append(json.loads(told))
    return {key: [float(value) for value in np.median(every, axis=0)] for key, every in found.items()}


def section(found: Mapping[str, Mapping[tuple[str, int], list[float]]], rounds: int) -> str:
    """The figures as Markdown."""
    lines = [
        "## Memory beside eager PyTorch",
        "",
        f"{taken()} with `python -m benchmarks.memory --rounds {rounds}`.",
        f"{machine()}; one thread. MB beyond the engine alone, each in a process of its own, medians of {rounds}.",
        "",
        "| model | rows | engine | loaded | peak | peak, of eager's | at the end | unused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for subject, figures in found.items():
        for (engine, rows), (loaded, peak, end, free) in figures.items():
            share = f"{peak / figures[EAGER, rows][1]:.0%}"
            lines.append(
                f"| {subject} | {rows} | {engine} | {loaded:.0f} | {peak:.0f} | {share} | {end:.0f} | {free:.0%} |"
            )
    missed = [
        f"{subject} at {rows}"
        for subject, figures in found.items()
        for rows in {rows for _, rows in figures}
        if min(figures[name, rows][1] for name in ENGINES if name != EAGER) > (1 - GOAL) * figures[EAGER, rows][1]
    ]
    reached = f"**not reached** by {', '.join(missed)}" if missed else "reached by each"
    return "\n".join(
        [*lines, "", f"Aim: {GOAL:.0%} less than eager PyTorch at the peak, in one of the two: {reached}."]
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one model and round; nothing written")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        engine, subject, rows, file = asked.child
        child(engine, subject, int(rows), file)
        return
    rounds, found = 1 if asked.small else asked.rounds, {}
    for subject in list(SUBJECTS)[: 1 if asked.small else None]:
        with tempfile.TemporaryDirectory() as folder:
            found[subject] = measured(subject, rounds, Path(folder))
    text = section(found, rounds)
    print(text)
    if not asked.small:
        write("memory", text)
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
