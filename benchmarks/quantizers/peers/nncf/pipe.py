"""Commands over pipes, a line each, words apart by tabs; stands alone."""

import contextlib
import sys
from collections.abc import Callable, Mapping


def answer(commands: Mapping[str, Callable[..., object]]) -> None:
    """Do what each line of standard input asks, and say when it is done."""
    told = sys.stdout
    for line in sys.stdin:
        command, *words = line.rstrip("\n").split("\t")
        with contextlib.redirect_stdout(sys.stderr):
            commands[command](*words)
        print("done", file=told, flush=True)


def compiled(file: str) -> Callable[..., object]:
    """OpenVINO's model, for one thread."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    made: Callable[..., object] = openvino.Core().compile_model(file, "CPU", options)
    return made
