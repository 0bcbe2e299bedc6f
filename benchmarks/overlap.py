"""What it gains to prepare pictures beside the runs, and how much of their preparation runs while the model does.

    python -m benchmarks.overlap [SECONDS]

A model is made that costs about as much as its pictures. The same requests go through the same stages and the same
session in one process: one step after the other, and as the server does it. Blocks of requests are interleaved, and the
ratio is taken within each round. So is hashing with one thread and with two, which tells how much of a second core
there was to gain. Writes a section of benchmarks/RESULTS.md.
"""

import asyncio
import io
import os
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from benchmarks.results import RESULTS, machine, taken, write
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from headway.core.tensors import Array
from headway.measure.latency import interleave, speedup
from headway.observe.metrics import ModelMetrics
from headway.serve.batcher import BatchLimits
from headway.serve.loading import Loaded, load_bundle
from headway.serve.local import LocalModel
from headway.serve.served_model import InferRequest, ServedModel
from headway.shipping.pack import pack

ROWS, REQUESTS = 4, 16  # pictures a request, requests a block
WIDE = 100  # characters of the timeline
DECLARED = """\
inputs:
  picture:
    - decode
    - resize: 256
    - crop: {height: 224, width: 224}
    - normalise: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    - layout: NCHW
    - feed: pixels
outputs:
  scores: [{take: logits}, softmax]
"""
HASHED = bytes(64 << 20)
Spans = list[tuple[float, float]]


class Timed:
    """A pipeline or a session that notes when it worked."""

    def __init__(self, of: Any, method: str) -> None:
        self._of, self._method, self.spans = of, method, list[tuple[float, float]]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name != self._method:
            return found

        def call(*given: Any) -> Any:
            began = perf_counter()
            try:
                return found(*given)
            finally:
                self.spans.append((began, perf_counter()))

        return call


def network(path: Path, layers: int) -> Path:
    """`layers` convolutions of 32 channels at 56 x 56, random weights; the first shrinks the picture."""
    draw = np.random.default_rng(0)
    kept, nodes, last, channels = [], [], "pixels", 3
    for number in range(layers):
        side, how = (3, {"pads": [1, 1, 1, 1]}) if number else (4, {"strides": [4, 4]})
        weights = draw.standard_normal((32, channels, side, side)) / np.sqrt(channels * side * side)
        kept.append(numpy_helper.from_array(weights.astype(np.float32), f"w{number}"))
        nodes += [helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], **how),
                  helper.make_node("Relu", [f"c{number}"], [f"r{number}"])]  # fmt: skip
        last, channels = f"r{number}", 32
    nodes += [helper.make_node("GlobalAveragePool", [last], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])]
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 224, 224])
    answer = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 32])
    graph = helper.make_graph(nodes, "network", [given], [answer], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def pictures(count: int) -> Array:
    """JPEG files of 800 x 600 pixels, [count]."""
    found = np.empty(count, dtype=object)
    for number in range(count):
        small = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(small).resize((800, 600), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found[number] = stream.getvalue()
    return found


def opened(folder: Path, layers: int, threads: int) -> Loaded:
    """The network with its processing, sealed and loaded."""
    (folder / "p.yaml").write_text(DECLARED)
    model = network(folder / f"{layers}.onnx", layers)
    bundle = folder / str(layers)
    if not bundle.exists():
        pack(model, name="overlap", out=bundle, processing=folder / "p.yaml")
    return load_bundle(bundle, threads=threads, choose_seconds=0)


def balanced(folder: Path, files: Array) -> int:
    """So many layers that a run takes as long as preparing its pictures."""

    def seconds(task: Any) -> float:
        taken = []
        for _ in range(5):
            began = perf_counter()
            task()
            taken.append(perf_counter() - began)
        return float(np.median(taken))

    one = opened(folder, 5, 1)
    assert one.processing is not None
    tensors = one.processing.before({"picture": files})
    ratio = seconds(lambda: one.processing.before({"picture": files})) / seconds(lambda: one.session.run(tensors))
    one.session.close()
    return max(1, round(5 * ratio))


def measure(seconds: float) -> str:
    """Interleave, and describe."""
    files = pictures(ROWS)
    request: Mapping[str, Array] = {"picture": files}
    with tempfile.TemporaryDirectory() as name, asyncio.Runner() as runner, ThreadPoolExecutor(2) as pool:
        os.environ["HEADWAY_HOME"] = name
        layers = balanced(Path(name), files)
        alone = {f"one after the other, {n} thread{'s' * (n > 1)} a run": opened(Path(name), layers, n) for n in (1, 2)}
        local = {title: LocalModel(one) for title, one in alone.items()}
        loaded = opened(Path(name), layers, 1)
        pre, run = Timed(loaded.processing, "before"), Timed(loaded.session, "run")
        timed: Any = replace(loaded, processing=pre, session=run)  # type: ignore[arg-type]
        limits = BatchLimits(max_rows=ROWS, window=0, queue_rows=ROWS * REQUESTS)

        async def made() -> ServedModel:
            return ServedModel(timed, limits, ModelMetrics(), processing_threads=1)

        served = runner.run(made())

        async def block() -> None:
            await asyncio.gather(*(served.infer(InferRequest(request), 600) for _ in range(REQUESTS)))

        def sequential(model: LocalModel) -> None:
            for _ in range(REQUESTS):
                model.predict(request)

        subjects: dict[str, Any] = {title: lambda m=model: sequential(m) for title, model in local.items()}
        subjects["beside each other, 1 thread a run"] = lambda: runner.run(block())
        for threads in (1, 2):
            subjects[f"hash {threads}"] = lambda n=threads: list(pool.map(lambda _: sha256(HASHED).digest(), range(n)))
        times = interleave(subjects, seconds=seconds, least_rounds=9)
        runner.run(served.close(10))
        for model in local.values():
            model.close()
    return section(times, pre.spans, run.spans, layers, seconds)


def section(times: dict[str, Any], pre: Spans, run: Spans, layers: int, seconds: float) -> str:
    """The figures as Markdown."""
    low, cores, high = speedup(2 * times.pop("hash 1"), times.pop("hash 2"), 0.95)
    hashing = f"{cores:.2f} ({low:.2f}-{high:.2f})"
    first, *_, last = times
    cost_pre, cost_run = (float(np.median([end - began for began, end in spans])) for spans in (pre, run))
    possible = REQUESTS * (cost_pre + cost_run) / (REQUESTS * max(cost_pre, cost_run) + min(cost_pre, cost_run))
    lines = [
        "## Pictures prepared beside the runs",
        "",
        f"{taken()} with `python -m benchmarks.overlap {seconds:.0f}`.",
        f"{machine()}. One process; {REQUESTS} requests of {ROWS} JPEG files (800 x 600) a"
        f" block; decode, resize, crop, normalise;",
        f"a network of {layers} convolutions. While they worked beside each other, preparing a request took"
        f" {cost_pre * 1e3:.1f} ms and running it {cost_run * 1e3:.1f} ms (medians).",
        "",
        "| | pictures/s | ratio (95% on each side) |",
        "|---|---|---|",
    ]
    for title, values in times.items():
        low, middle, high = speedup(times[first], values, 0.95)
        rate = ROWS * REQUESTS / (float(np.median(values)) / 1e3)
        ratio = "1" if title == first else f"{middle:.2f} ({low:.2f}-{high:.2f})"
        lines.append(f"| {title} | {rate:,.0f} | {ratio} |")
    lines += [
        "",
        f"Hashing went {hashing} times as fast with two threads as with one: that much of a second core was free."
        f" With these two costs a block could at best be {possible:.2f} times as fast."
        f" {shared(pre, run):.0%} of the time of preparing passed while a run was under way.",
        f"One block, {last}:",
        "",
        "```text",
        *timeline(pre[-REQUESTS:], run),
        "```",
    ]
    return "\n".join(lines)


def shared(of: Spans, other: Spans) -> float:
    """Share of the time in `of` that lies within spans of `other`, which do not overlap among themselves."""
    within = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in of for b in other)
    return within / sum(end - began for began, end in of)


def timeline(pre: Spans, run: Spans) -> list[str]:
    """One line each, a mark where at least half of the time was spent working."""
    began = pre[0][0]
    run = [span for span in run if span[0] >= began]
    edges = np.linspace(began, max(run[-1][1], pre[-1][1]), WIDE + 1)

    def drawn(spans: Spans) -> str:
        cells = [shared([(float(a), float(b))], spans) for a, b in pairwise(edges)]
        return "".join("#" if cell >= 0.5 else "." for cell in cells)

    return [f"prepare {drawn(pre)}", f"run     {drawn(run)}", f"        {(edges[-1] - began) * 1e3:.0f} ms"]


if __name__ == "__main__":
    write("overlap", measure(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
    print(f"overlap: written to {RESULTS}")
