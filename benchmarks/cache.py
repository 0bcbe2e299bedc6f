"""Measures what shared answers bring, and what they cost where nothing repeats; writes into benchmarks/RESULTS.md.

    python -m benchmarks.cache [--seconds 3] [--rounds 5]

Two servers of one model run side by side, one with `--cache-mb 64` and one without, and take turns under the same
closed loop of 32 callers in this process. Zipf: 10,000 inputs, the k-th asked for in proportion to 1 / k^1.1. Unique:
no input comes twice. A ratio is of neighbouring turns; the first turn of each is not counted.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import uvloop
from benchmarks.ship import RESULTS, ROOT, write
from onnx import TensorProto, helper, numpy_helper

from headway.core.machine import here

CALLERS, INPUTS, CACHE_MB = 32, 10_000, 64
MODELS = {"small": 2, "large": 24}  # layers of 3x3 convolutions
SHAPE = (1, 1, 28, 28)
HEADER = json.dumps(
    {
        "inputs": [
            {"name": "input", "shape": SHAPE, "datatype": "FP32", "parameters": {"binary_data_size": 4 * 28 * 28}}
        ],
        "parameters": {"binary_data_output": True},
    }
).encode()


def model(folder: Path, name: str, layers: int) -> Path:
    """A convolutional network with random weights, [batch, 1, 28, 28] -> [batch, 10]."""
    random, nodes, weights, last, channels = np.random.default_rng(0), [], [], "input", 1
    for layer in range(layers):
        kernel = random.standard_normal((32, channels, 3, 3)).astype(np.float32) / np.float32(np.sqrt(9 * channels))
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        stride = 1 if layer else 2
        nodes.append(
            helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1], strides=[stride] * 2)
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        last, channels = f"r{layer}", 32
    weights.append(numpy_helper.from_array(random.standard_normal((32, 10)).astype(np.float32), "head"))
    nodes.append(helper.make_node("ReduceMean", [last], ["pooled"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["pooled", "head"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class Served:
    """A server in a process of its own."""

    def __init__(self, url: str, name: str) -> None:
        self.host, port = url.removeprefix("http://").split(":")
        self.port, self.name = int(port), name

    def metrics(self) -> dict[str, float]:
        """What the server says, by the metric's name, and for requests of the cache by outcome."""
        with urllib.request.urlopen(f"http://{self.host}:{self.port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith(("headway_", "process_cpu")):
                labels, value = line.rsplit(" ", 1)
                name = labels.split("{")[0].removeprefix("headway_")
                found[labels.split('outcome="')[1].split('"')[0] if name == "cache_requests_total" else name] = float(
                    value
                )
        return found


@contextmanager
def serving(bundle: Path, name: str, cache_mb: int) -> Iterator[Served]:
    """`headway serve`, with one thread a run."""
    command = [Path(sys.executable).with_name("headway"), "serve", bundle, "--json", "--http-port", "0", "--no-grpc"]
    command += ["--threads", "1", "--choose-seconds", "0", "--trust-any", "--cache-mb", f"{cache_mb}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield Served(json.loads(process.stdout.readline())["url"], name)
        finally:
            process.terminate()


class Caller(asyncio.Protocol):
    """One connection that sends the next request as soon as it has its answer."""

    def __init__(self, name: str, numbers: Iterator[int], done: "asyncio.Future[None]") -> None:
        blob = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32).tobytes()
        self.start = (
            f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: h\r\nInference-Header-Content-Length: {len(HEADER)}\r\n"
            f"Content-Length: {len(HEADER) + len(blob)}\r\n\r\n"
        ).encode() + HEADER
        self.rest, self.numbers, self.done, self.answers, self.buffer = blob[8:], numbers, done, 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        number = next(self.numbers)
        pixels = np.array([number % 65_536, number // 65_536], np.float32)  # the picture, but for two pixels
        self.transport.write(self.start + pixels.tobytes() + self.rest)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().split(b"content-length: ")[-1].split(b"\r\n")[0]):
            return
        assert head.startswith(b"HTTP/1.1 200"), self.buffer
        self.buffer = b""
        self.answers += 1
        if self.done.done():
            self.transport.close()
        else:
            self.send()


async def turn(served: Served, numbers: Iterator[int], seconds: float) -> tuple[float, float]:
    """Answers a second, and the server's CPU time of one in microseconds."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    callers = [Caller(served.name, numbers, done) for _ in range(CALLERS)]
    cpu_s, began = served.metrics()["process_cpu_seconds_total"], perf_counter()
    for caller in callers:
        await loop.create_connection(lambda one=caller: one, served.host, served.port)
    await asyncio.sleep(seconds)
    answered = sum(caller.answers for caller in callers)
    took = perf_counter() - began
    done.set_result(None)
    while not all(caller.transport.is_closing() for caller in callers):
        await asyncio.sleep(0.01)
    cpu_s = served.metrics()["process_cpu_seconds_total"] - cpu_s
    return answered / took, 1e6 * cpu_s / sum(caller.answers for caller in callers)


def zipf() -> Iterator[int]:
    """Inputs by popularity."""
    chances = 1 / np.arange(1, INPUTS + 1) ** 1.1
    random = np.random.default_rng(0)
    while True:
        yield from random.choice(INPUTS, 10_000, p=chances / chances.sum()).tolist()


def unique() -> Iterator[int]:
    """Inputs that never come again; each server gets its own copy of them."""
    yield from range(INPUTS, 1 << 40)


def compare(bundle: Path, name: str, traffic: str, seconds: float, rounds: int) -> str:
    """One row of the table."""
    with ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        off, on = (stack.enter_context(serving(bundle, name, cache_mb)) for cache_mb in (0, CACHE_MB))
        load = {id(one): zipf() if traffic == "Zipf" else unique() for one in (off, on)}
        found: dict[int, list[tuple[float, float]]] = {id(off): [], id(on): []}
        for number in range(rounds + 1):
            for one in (off, on) if number % 2 else (on, off):
                found[id(one)].append(runner.run(turn(one, load[id(one)], seconds)))
            if not number:
                began = on.metrics()
        seen, bare = on.metrics(), off.metrics()
    without, with_cache = (np.array(found[id(one)][1:]) for one in (off, on))  # [rounds, 2]: a second, CPU us
    ratios = with_cache[:, 0] / without[:, 0]
    asked = {kind: seen[kind] - began[kind] for kind in ("hit", "coalesced", "miss", "passed")}
    shared = (asked["hit"] + asked["coalesced"]) / sum(asked.values())
    (rate, cpu), (shared_rate, shared_cpu) = np.median(without, axis=0), np.median(with_cache, axis=0)
    return (
        f"| {name}, {1000 * bare['infer_seconds_sum'] / bare['batch_rows_sum']:.2f} ms | {traffic} "
        f"| {rate:,.0f} | {shared_rate:,.0f} | {np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f}) "
        f"| {cpu:.0f} | {shared_cpu:.0f} | {shared:.0%} | {'on' if seen['cache_on'] else 'off'} |"
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADWAY_HOME"] = f"{folder}/home"
        for name, layers in MODELS.items():
            out = Path(folder) / name
            command = [Path(sys.executable).with_name("headway"), "pack", model(Path(folder), name, layers)]
            subprocess.run([*command, "--name", name, "--out", out], check=True, stdout=subprocess.DEVNULL)
            for traffic in ("Zipf", "unique"):
                rows.append(compare(out, name, traffic, asked.seconds, asked.rounds))
                print(rows[-1], flush=True)
    write("cache", section(rows, asked.seconds, asked.rounds))
    print(f"written to {RESULTS}")


def section(rows: list[str], seconds: float, rounds: int) -> str:
    """The figures as Markdown."""
    machine = here()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [
        f"## Shared answers: `headway serve --cache-mb {CACHE_MB}` against none",
        "",
        f"Taken {datetime.now(UTC):%Y-%m-%d} at commit {commit.stdout.strip()} with",
        f"`python -m benchmarks.cache --seconds {seconds:g} --rounds {rounds}`.",
        f"Machine: {machine.cpu}, {machine.cores} cores, the load on the same; one thread a run.",
        "",
        f"Two servers take turns under {CALLERS} callers, binary REST, each request a 28 x 28 picture. Zipf:",
        f"{INPUTS:,} pictures, the k-th asked for in proportion to 1/k^1.1; unique: none comes twice. The ratio is of",
        "neighbouring turns, its median, least and greatest. CPU is the server's, a request, the model's run included.",
        "Shared: answered from memory or by a run under way. At end: whether the cache had switched itself off.",
        "",
        "| model, a row | traffic | requests/s off | on | on / off | CPU us off | on | shared | at end |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
