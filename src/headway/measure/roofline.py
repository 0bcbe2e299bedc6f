"""What a machine can do at most, measured, and how near an operator comes to it.

The roofline of Williams, Waterman and Patterson (CACM 52(4), 2009): a run takes no less than its operations at the peak
rate, and no less than its bytes at the memory's. Both roofs are measured with the runtime that serves: products of
square matrices, and the sum of two long vectors, of which STREAM's convention counts two reads and one write. What fits
into a cache is held against the same sum of short vectors.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from headway.core import machine, plugins
from headway.core.errors import HeadwayError, StorageError
from headway.core.files import digest_json, home, write_atomic
from headway.core.progress import SILENT, Progress
from headway.core.tensors import Array
from headway.measure.count import Precision, Work
from headway.runtimes.runtime import DEFAULT, Runtime
from headway.runtimes.wire import encode

CACHE = 4_000_000
"""Bytes that are taken to stay in a cache from one run to the next, on any machine."""

_SIDES = 384, 1024  # of the matrices: few threads are quickest on what fits a cache, many need more to share
_LONG, _SHORT = 16_000_000, CACHE // 16  # elements of a vector: 3 x 64 MB, and 3 MB
_SECONDS = 0.2  # for each of the six
_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6  # onnx.TensorProto.DataType


class Roofline(BaseModel):
    """What was measured of a machine.

    Attributes:
        threads: of a run.
        peak: operations a second by precision; one that the runtime has no kernel for is missing.
        bandwidth: bytes a second from and to memory.
        cached: the same where everything stays in a cache.
    """

    model_config = ConfigDict(frozen=True)

    threads: int
    peak: dict[Precision, float]
    bandwidth: float
    cached: float


class Bound(BaseModel):
    """How long some work takes at least.

    Attributes:
        compute: seconds of the operations alone.
        memory: of the bytes alone.
    """

    model_config = ConfigDict(frozen=True)

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """Of whichever takes longer."""
        return max(self.compute, self.memory)

    @property
    def by(self) -> str:
        """`compute` or `memory`."""
        return "compute" if self.compute >= self.memory else "memory"


def bound(
    work: Work, peak: Mapping[Precision, float], bandwidth: float, cached: float, *, resident: bool = False
) -> Bound:
    """The roofline of one operator.

    Args:
        work: what it does.
        peak: operations a second by precision; fp32's stands in for one that is missing.
        bandwidth: bytes a second of memory.
        cached: of a cache, which holds what one operator reads and writes if that is no more than `CACHE`.
        resident: the model's weights stay in a cache from run to run.
    """
    rate = peak.get(work.precision, peak["fp32"])
    activations = work.read_bytes + work.written_bytes
    memory = activations / (cached if activations <= CACHE else bandwidth)
    memory += work.weight_bytes / (cached if resident else bandwidth)
    return Bound(compute=(work.operations or 0) / rate, memory=memory)


def roofline(threads: int, *, progress: Progress = SILENT) -> Roofline:
    """This machine's roofline with ONNX Runtime: the one that is kept, or one that is measured now, in 2 seconds.

    It is kept under `HEADWAY_HOME` for the processor, the number of threads and the runtime's version.
    """
    runtime: Runtime = plugins.load("headway.runtimes", DEFAULT)()
    here = machine.here().model_dump(include={"architecture", "cpu", "cores", "instruction_sets"})
    key = digest_json({"machine": here, "threads": threads, "runtime": runtime.available().detail})
    file = home() / "cache" / "rooflines" / f"{key}.json"
    try:
        return Roofline.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        found = _measure(runtime, threads, progress)
    try:
        write_atomic(file, found.model_dump_json(indent=2) + "\n")
    except (StorageError, OSError) as error:
        progress.say(f"the machine's roofline is not kept: {error}")
    return found


def _measure(runtime: Runtime, threads: int, progress: Progress) -> Roofline:
    draw = np.random.default_rng(0)
    peak: dict[Precision, float] = {}
    with progress.work("measure the machine's roofline", len(_SIDES) + 2) as bar:
        for side in _SIDES:
            square, small = draw.random((side, side), np.float32), draw.integers(0, 64, (side, side), np.uint8)
            seconds = _least(runtime, threads, "MatMul", (_FLOAT, _FLOAT, _FLOAT), square, square)
            peak["fp32"] = max(peak.get("fp32", 0.0), 2 * side**3 / seconds)
            with suppress(HeadwayError):  # a build without a kernel for it
                seconds = _least(runtime, threads, "MatMulInteger", (_UINT8, _INT8, _INT32), small, small.view(np.int8))
                peak["int8"] = max(peak.get("int8", 0.0), 2 * side**3 / seconds)
            bar.advance()
        rates = []
        for count in (_LONG, _SHORT):
            vector = np.ones(count, np.float32)
            seconds = _least(runtime, threads, "Add", (_FLOAT, _FLOAT, _FLOAT), vector, vector.copy())
            rates.append(3 * vector.nbytes / seconds)
            bar.advance()
    return Roofline(threads=threads, peak=peak, bandwidth=rates[0], cached=max(rates))


def _least(
    runtime: Runtime, threads: int, operator: str, kinds: tuple[int, int, int], one: Array, other: Array
) -> float:
    """Seconds of the quickest run of one operator: what disturbs a run only adds to it."""
    with TemporaryDirectory(prefix="headway-roofline-") as folder:
        file = Path(folder, "operator.onnx")
        file.write_bytes(_model(operator, kinds, one.ndim))
        session = runtime.load(file, threads=threads)
        try:
            inputs, least, end = {"a": one, "b": other}, float("inf"), 0.0
            session.run(inputs)
            end = time.perf_counter() + _SECONDS
            while time.perf_counter() < end:
                start = time.perf_counter()
                session.run(inputs)
                least = min(least, time.perf_counter() - start)
        finally:
            session.close()
    return least


def _model(operator: str, kinds: tuple[int, int, int], rank: int) -> bytes:
    """An ONNX file of one operator on `a` and `b`.

    Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
    """

    def tensor(name: str, kind: int) -> bytes:
        shape = b"".join(encode(1, encode(2, f"{name}{n}")) for n in range(rank))
        return encode(1, name) + encode(2, encode(1, encode(1, kind) + encode(2, shape)))

    node = encode(1, "a") + encode(1, "b") + encode(2, "c") + encode(4, operator)
    graph = (
        encode(1, node) + encode(2, operator) + encode(11, tensor("a", kinds[0])) + encode(11, tensor("b", kinds[1]))
    )
    graph += encode(12, tensor("c", kinds[2]))
    return encode(1, 8) + encode(7, graph) + encode(8, encode(2, 17))
