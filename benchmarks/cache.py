"""Measures what shared answers bring, and what they cost where nothing repeats; writes into benchmarks/RESULTS.md.

    python -m benchmarks.cache [--seconds 3] [--rounds 5]

Two servers of one model, one with `--cache-mb 64` and one without, take turns on one core under the same closed loop of
32 callers on another. Zipf: 10,000 inputs, the k-th asked for in proportion to 1 / k^1.1. Unique: no input comes twice.
A ratio is of neighbouring turns; the first turn of each is not counted.
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
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
import uvloop
from benchmarks.results import RESULTS, machine, taken, write
from benchmarks.serving.models import Model, headway_home, large_cnn, small_cnn
from benchmarks.serving.servers import LOAD_CORE, SERVER_CORE

CALLERS, INPUTS, CACHE_MB = 32, 10_000, 64
HEADWAY = Path(sys.executable).with_name("headway")


class Served:
    """A server in a process of its own, which is stopped but for its turns."""

    def __init__(self, process: psutil.Process, url: str, model: Model) -> None:
        self.process, self.url, self.model = process, url, model
        process.suspend()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run for the block."""
        self.process.resume()
        yield
        self.process.suspend()

    def metrics(self) -> dict[str, float]:
        """What it says, by the metric's name, and requests of the cache by outcome."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=20) as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
        found = {}
        for line in lines:
            if not line.startswith("#"):
                labels, value = line.rsplit(" ", 1)
                name = labels.split("{")[0]
                found[labels.split('outcome="')[1].split('"')[0] if "cache_requests" in name else name] = float(value)
        return found


@contextmanager
def serving(bundle: Path, model: Model, cache_mb: int) -> Iterator[Served]:
    """`headway serve` on its core, one thread a run."""
    command: list[str | Path] = ["taskset", "-c", f"{SERVER_CORE}", HEADWAY, "serve", bundle, "--json", "--no-grpc"]
    command += ["--http-port", "0", "--threads", "1", "--choose-seconds", "0", "--cache-mb", f"{cache_mb}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            served = Served(psutil.Process(process.pid), json.loads(process.stdout.readline())["url"], model)
            yield served
            served.process.resume()
        finally:
            process.terminate()


class Caller(asyncio.Protocol):
    """One connection that sends the next request as soon as it has its answer."""

    def __init__(self, model: Model, numbers: Iterator[int]) -> None:
        image = model.rows(1).tobytes()
        about = {"name": model.input, "shape": [1, *model.row], "datatype": "FP32"}
        inputs = [{**about, "parameters": {"binary_data_size": len(image)}}]
        header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        self.start = (
            f"POST /v2/models/{model.name}/infer HTTP/1.1\r\nHost: h\r\n"
            f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(header) + len(image)}\r\n\r\n"
        ).encode() + header
        self.rest, self.numbers = image[8:], numbers
        self.answers, self.buffer, self.ending = 0, b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        number = next(self.numbers)
        pixels = np.array([number % 65_536, number // 65_536], np.float32)  # the image, but for two pixels
        self.transport.write(self.start + pixels.tobytes() + self.rest)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().split(b"content-length: ")[-1].split(b"\r\n")[0]):
            return
        assert head.startswith(b"HTTP/1.1 200"), self.buffer
        self.buffer = b""
        self.answers += 1
        if self.ending:
            self.transport.close()
        else:
            self.send()


async def load(served: Served, numbers: Iterator[int], seconds: float) -> tuple[float, float]:
    """Answers a second, and the server's CPU microseconds for one."""
    loop = asyncio.get_running_loop()
    host, port = served.url.removeprefix("http://").split(":")
    callers = [Caller(served.model, numbers) for _ in range(CALLERS)]
    cpu_s, began = served.metrics()["process_cpu_seconds_total"], perf_counter()
    for caller in callers:
        await loop.create_connection(lambda one=caller: one, host, int(port))
    await asyncio.sleep(seconds)
    rate = sum(caller.answers for caller in callers) / (perf_counter() - began)
    for caller in callers:
        caller.ending = True
    while not all(caller.transport.is_closing() for caller in callers):
        await asyncio.sleep(0.01)
    cpu_s = served.metrics()["process_cpu_seconds_total"] - cpu_s
    return rate, 1e6 * cpu_s / sum(caller.answers for caller in callers)


def zipf() -> Iterator[int]:
    """Inputs by popularity."""
    chances = 1 / np.arange(1, INPUTS + 1) ** 1.1
    random = np.random.default_rng(0)
    while True:
        yield from random.choice(INPUTS, 10_000, p=chances / chances.sum()).tolist()


def unique() -> Iterator[int]:
    """Inputs that never come again."""
    yield from range(INPUTS, 1 << 40)


def compare(bundle: Path, model: Model, traffic: str, seconds: float, rounds: int) -> str:
    """One row of the table."""
    with ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pair = [stack.enter_context(serving(bundle, model, cache_mb)) for cache_mb in (0, CACHE_MB)]
        numbers = [zipf() if traffic == "Zipf" else unique() for _ in pair]
        told: list[list[dict[str, float]]] = [[], []]
        found: list[list[tuple[float, float]]] = [[], []]
        for number in range(rounds + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                with pair[which].turn():
                    found[which].append(runner.run(load(pair[which], numbers[which], seconds)))
                    told[which].append(pair[which].metrics())
    off, on = (np.array(one[1:]) for one in found)  # [rounds, 2]
    first, last = told[1][0], told[1][-1]
    asked = {kind: last[kind] - first[kind] for kind in ("hit", "coalesced", "miss", "passed")}
    row_ms = 1000 * told[0][-1]["headway_infer_seconds_sum"] / told[0][-1]["headway_batch_rows_sum"]
    (rate, cpu), (shared_rate, shared_cpu) = np.median(off, axis=0), np.median(on, axis=0)
    ratios = on[:, 0] / off[:, 0]
    return (
        f"| {model.name}, {row_ms:.2f} ms | {traffic} | {rate:,.0f} | {shared_rate:,.0f} "
        f"| {np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f}) | {cpu:.0f} | {shared_cpu:.0f} "
        f"| {(asked['hit'] + asked['coalesced']) / sum(asked.values()):.0%} "
        f"| {'on' if last['headway_cache_on'] else 'off'} |"
    )


def section(rows: list[str], seconds: float, rounds: int) -> str:
    """The figures as Markdown."""
    lines = [
        f"## Shared answers: `headway serve --cache-mb {CACHE_MB}` against none",
        "",
        f"{taken()} with `python -m benchmarks.cache --seconds {seconds:g} --rounds {rounds}`.",
        f"{machine()}; a server on one, the load on the other.",
        "",
        f"{CALLERS} callers, binary REST, a 28 x 28 image each. Zipf: {INPUTS:,} images, the k-th asked for in",
        "proportion to 1/k^1.1; unique: none comes twice. The ratio is of neighbouring turns: median, least, greatest.",
        "CPU is the server's for one request, the model's run included. Shared: answered from memory or by a run under",
        "way. At end: whether the cache had switched itself off.",
        "",
        "| model, a row | traffic | requests/s without | with | ratio | CPU us without | with | shared | at end |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="of two turns each")
    asked = parser.parse_args()
    os.environ.update(headway_home())
    os.sched_setaffinity(0, {LOAD_CORE})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in (small_cnn(), large_cnn()):
            bundle = Path(folder) / model.name
            command = [HEADWAY, "pack", model.file, "--name", model.name, "--out", bundle]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for traffic in ("Zipf", "unique"):
                rows.append(compare(bundle, model, traffic, asked.seconds, asked.rounds))
                print(rows[-1], flush=True)
    write("cache", section(rows, asked.seconds, asked.rounds))
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
