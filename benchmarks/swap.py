"""What a swap does to the callers: latency before and during loads under load, written into benchmarks/RESULTS.md.

    python -m benchmarks.swap [--swaps 30] [--dry]

A server on one core serves a small convolutional net over binary REST; its callers are on another core. Two versions
are swapped back and forth. Each swap has a quiet window before it, of the same length, so that pairs of windows see the
same machine; two quiet windows are compared as well, which shows what the comparison itself is worth. Every answer is
checked to be one version's, whole.
"""

import argparse
import asyncio
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from benchmarks.results import RESULTS, machine, taken, write
from onnx import TensorProto, helper, numpy_helper

from headway.bundles.golden import Sample
from headway.bundles.manifest import Variant
from headway.bundles.seal import Draft, seal
from headway.measure.order import median_interval
from headway.registry.registry import Registry
from headway.runtimes.onnx_runtime import OnnxRuntime

SERVER_CORE, CALLERS_CORE = 0, 1
WINDOW_S = 1.5
SHAPE = (3, 32, 32)
CONNECTIONS = 32


def model(path: Path, version: int) -> None:
    """Four convolutions, about 0.2 ms a row, and the version: `scores` [batch, 10] and `version` [batch, 1]."""
    draw = np.random.default_rng(version)
    nodes, weights, last = [], [], "input"
    for layer, (before, after) in enumerate([(3, 16), (16, 16), (16, 32), (32, 32)]):
        kernel = (draw.standard_normal((after, before, 3, 3)) / np.sqrt(9 * before)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(
            helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1] * 4, strides=[1 + layer % 2] * 2)
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [last := f"r{layer}"]))
    weights.append(numpy_helper.from_array(draw.standard_normal((32, 10)).astype(np.float32), "head"))
    weights.append(numpy_helper.from_array(np.array([0.0], np.float32), "zero"))
    weights.append(numpy_helper.from_array(np.array([float(version)], np.float32), "number"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
        helper.make_node("ReduceMax", ["scores"], ["largest"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "number"], ["version"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *SHAPE])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("version", TensorProto.FLOAT, ["batch", 1]),
        ],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def register(folder: Path) -> None:
    """Versions 1 and 2 of `small`, in the registry."""
    for version in (1, 2):
        file = folder / f"{version}.onnx"
        model(file, version)
        session = OnnxRuntime().load(file)
        inputs = {"input": np.random.default_rng(0).random((4, *SHAPE)).astype(np.float32)}
        outputs = session.run(inputs)
        variants = tuple(
            Variant(
                id=name, file="", format="onnx", runtime="onnxruntime", precision="fp32",
                tolerance=dict.fromkeys(outputs, 1e-4),
            )
            for name in ("one", "other")
        )  # fmt: skip
        draft = Draft("small", str(version), session.inputs, session.outputs, variants, "one")
        bundle = seal(
            folder / str(version),
            draft,
            models={"one": file, "other": file},  # so that there is something to choose from
            golden=[Sample(inputs, outputs)],
            report="<p></p>",
        )
        Registry().add(bundle)


@contextmanager
def serving() -> Iterator[str]:
    """`host:port` of a server on its core."""
    command = [sys.executable, "-P", "-c", "from headway.cli.main import main; main()", "serve", "small:1", "--json"]
    command += ["--http-port", "0", "--no-grpc", "--threads", "1"]
    with (Path(os.environ["HEADWAY_HOME"]) / "log").open("w") as log:
        running = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert running.stdout is not None
        try:
            document = ""
            while not document.endswith("}\n"):
                document += running.stdout.readline()
            yield json.loads(document)["url"].removeprefix("http://")
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)


class Caller(asyncio.Protocol):
    """One connection: a request at a time, from the moment it was due."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.due = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.free.append(self)

    def ask(self, due: float) -> None:
        self.due, self.seen = due, b""
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.seen += data
        head, split, body = self.seen.partition(b"\r\n\r\n")
        if not split or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return
        loop = asyncio.get_running_loop()
        assert head.startswith(b"HTTP/1.1 200"), self.seen[:500]
        version = round(float(np.frombuffer(body[-4:], "<f4")[0]))
        assert f'"model_version":"{version}"'.encode() in body, body[:300]
        self.load.taken.append((self.due, loop.time() - self.due, version))
        self.load.answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        assert self.load.over, f"a connection was lost: {error}"


class Load:
    """Callers: `rate` requests/s with exponential gaps, or, without it, so many callers that each ask again at once."""

    def __init__(self, rate: float | None, callers: int) -> None:
        value = np.random.default_rng(0).random((1, *SHAPE)).astype("<f4").tobytes()
        header = json.dumps(
            {
                "inputs": [
                    {"name": "input", "datatype": "FP32", "shape": [1, *SHAPE],
                     "parameters": {"binary_data_size": len(value)}}
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()  # fmt: skip
        lines = [
            "POST /v2/models/small/infer HTTP/1.1",
            "Host: 127.0.0.1",
            f"Content-Length: {len(header) + len(value)}",
        ]
        lines += [f"Inference-Header-Content-Length: {len(header)}", "", ""]
        self.request = "\r\n".join(lines).encode() + header + value
        self.rate, self.callers = rate, callers
        self.free: deque[Caller] = deque()
        self.waiting: deque[float] = deque()
        self.taken: list[tuple[float, float, int]] = []
        self.over = False
        self.draw = np.random.default_rng(1)

    async def begin(self, address: str) -> None:
        host, port = address.split(":")
        loop = asyncio.get_running_loop()
        for _ in range(self.callers):
            await loop.create_connection(lambda: Caller(self), host, int(port))
        if self.rate is None:
            while self.free:
                self.free.popleft().ask(loop.time())
        else:
            self.next = loop.time()
            self.tick()

    def tick(self) -> None:
        loop = asyncio.get_running_loop()
        while self.next <= loop.time():
            self.waiting.append(self.next)
            self.next += self.draw.exponential(1 / (self.rate or 1))
        while self.free and self.waiting:
            self.free.popleft().ask(self.waiting.popleft())
        if not self.over:
            loop.call_at(self.next, self.tick)

    def answered(self, caller: Caller) -> None:
        if self.over:
            return
        if self.rate is None:
            caller.ask(asyncio.get_running_loop().time())
        elif self.waiting:
            caller.ask(self.waiting.popleft())
        else:
            self.free.append(caller)

    def between(self, start: float, end: float) -> np.ndarray:
        """Milliseconds of the requests that were due then."""
        return np.array([1000 * seconds for due, seconds, _ in self.taken if start <= due < end])


def swap(address: str, version: int) -> None:
    connection = http.client.HTTPConnection(address, timeout=120)
    body = json.dumps({"parameters": {"config": json.dumps({"version": str(version)})}})
    connection.request("POST", "/v2/repository/models/small/load", body)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


async def windows(address: str, load: Load, swaps: int, *, choose: bool) -> list[tuple[np.ndarray, ...]]:
    """Of every swap: latencies in a quiet window, in another, and during the swap."""
    loop = asyncio.get_running_loop()
    await load.begin(address)
    await asyncio.sleep(2)
    spans = []
    length = WINDOW_S
    for number in range(swaps):
        start = loop.time()
        await asyncio.sleep(2 * length)
        if choose:
            shutil.rmtree(Path(os.environ["HEADWAY_HOME"]) / "cache" / "choices", ignore_errors=True)
        begin = loop.time()
        await asyncio.to_thread(swap, address, 2 - number % 2)
        end = loop.time() + 0.05  # the old one is freed
        await asyncio.sleep(0.1)
        spans.append((start, (start + begin) / 2, begin, end))
        length = end - begin
    load.over = True
    await asyncio.sleep(0.5)
    versions = {version for _, _, version in load.taken}
    assert versions == {1, 2}, versions
    return [
        (load.between(start, middle), load.between(middle, begin), load.between(begin, end))
        for start, middle, begin, end in spans
    ]


def ratios(found: list[tuple[np.ndarray, ...]], one: int, other: int) -> str:
    each = np.array([np.percentile(row[other], 99) / np.percentile(row[one], 99) for row in found])
    low, middle, high = median_interval(each, 0.95)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def row(title: str, found: list[tuple[np.ndarray, ...]]) -> str:
    first, second, during = (np.concatenate([one[part] for one in found]) for part in range(3))
    quiet = np.concatenate([first, second])
    line = f"| {title} | {len(quiet):,} / {len(during):,} | {np.percentile(quiet, 50):.2f} / "
    line += f"{np.percentile(quiet, 99):.2f} | {np.percentile(during, 50):.2f} / {np.percentile(during, 99):.2f} "
    line += f"| {np.percentile(during, 99) / np.percentile(quiet, 99):.2f} | {ratios(found, 1, 2)} "
    return line + f"| {ratios(found, 0, 1)} | {quiet.max():.1f} / {during.max():.1f} |"


async def capacity(address: str) -> float:
    load = Load(None, CONNECTIONS)
    await load.begin(address)
    await asyncio.sleep(3)
    load.over = True
    await asyncio.sleep(0.5)
    return len(load.taken) / 3


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--swaps", type=int, default=30)
    asked.add_argument("--dry", action="store_true", help="print, and write nothing")
    asked.add_argument("--only", default="", help="rows whose title holds this")
    options = asked.parse_args()
    os.sched_setaffinity(0, {CALLERS_CORE})
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADWAY_HOME"] = f"{folder}/home"
        register(Path(folder))
        with serving() as address:
            most = asyncio.run(capacity(address))
        for title, rate, callers, choose in (
            ("Poisson arrivals at a third of that", most / 3, CONNECTIONS, False),
            ("Poisson arrivals, variants measured anew", most / 3, CONNECTIONS, True),
            ("8 callers that ask again at once", None, 8, False),
        ):
            if options.only in title:
                with serving() as address:
                    found = asyncio.run(windows(address, Load(rate, callers), options.swaps, choose=choose))
                lines.append(row(title, found))
                print(lines[-1], flush=True)
    text = "\n".join(
        [
            "## Swapping a model under load",
            "",
            f"{taken()} with `python -m benchmarks.swap --swaps {options.swaps}`.",
            f"{machine()}.",
            "The server and what it starts are held to one core, its callers to another. A net of four convolutions,",
            f"one row a request, binary REST: at most {most:,.0f} requests/s with {CONNECTIONS} callers. Latency in",
            "ms, from the moment a request was due; `during` is from the load call to 50 ms after its answer. The",
            "ratio of two quiet windows is what chance does. No request failed, and each was answered by one version.",
            "",
            "| load | requests, quiet / during | quiet p50 / p99 | during p50 / p99 | ratio of all p99s"
            " | ratio a swap, median | ratio of two quiet windows | slowest, quiet / during |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )
    print(text)
    if not options.dry:
        write("swap", text)
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
