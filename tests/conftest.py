"""Every test is checked for what it leaves behind: threads, child processes, sockets, environment variables."""

import gc
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle

# Pools that libraries keep for the life of the process.
_LASTING = ("pydevd", "tqdm_monitor", "asyncio_", "ThreadPoolExecutor", "pytest_timeout", "QueueFeeder", "OpenBLAS")


def _sockets() -> set[tuple[int, str]]:
    process = psutil.Process()
    ask = process.net_connections if hasattr(process, "net_connections") else process.connections  # psutil 6 renamed it
    found = ask(kind="inet")
    return {(c.fd, f"{c.laddr}") for c in found if c.status == psutil.CONN_LISTEN}


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.is_alive() and not t.name.startswith(_LASTING)}


def _children() -> set[int]:
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(child.cmdline())
    }


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what pytest and torch's own imports set."""
    return {k: v for k, v in variables.items() if not k.startswith(("PYTEST_", "KMP_", "TORCHINDUCTOR_"))}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: last, they would keep one core busy while the others have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What the imports made is not searched for garbage after every test: that took a quarter of a second of each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    before = _threads(), _children(), _sockets(), dict(os.environ)
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while True:
        left = _threads() - before[0], _children() - before[1], _sockets() - before[2]
        if not any(left) or time.monotonic() > deadline:
            break
        threading.Event().wait(0.02)
    assert not left[0], f"threads left running: {[t.name for t in left[0]]}"
    assert not left[1], f"child processes left running: {left[1]}"
    assert not left[2], f"sockets left listening: {left[2]}"
    assert _environment(os.environ) == _environment(before[3]), "the environment was changed"


class LogStream(io.StringIO):
    """What was logged."""

    def lines(self, message: str | None = None) -> list[dict[str, Any]]:
        """Every line, or those of this message, as what JSON makes of them."""
        found = [json.loads(line) for line in self.getvalue().splitlines()]
        return [line for line in found if message is None or line["message"] == message]


@pytest.fixture
def log() -> Iterator[LogStream]:
    """Headway's log, as it is written."""
    from headway.observe.logs import logger, to_stderr

    written = LogStream()
    level, propagate = logger.level, logger.propagate
    handler = to_stderr(stream=written)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `HEADWAY_HOME`."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HEADWAY_HOME", str(folder))
    return folder


@pytest.fixture
def linear_onnx(tmp_path: Path) -> Path:
    """An ONNX file that computes `logits = input @ weights`, FP32, [batch, 4] -> [batch, 3]."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3) / 10, "weights")],
    )
    path = tmp_path / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def seal_linear(tmp_path: Path, home: Path, linear_onnx: Path) -> Callable[..., "Bundle"]:
    """`seal_linear(name="linear", version="1", out=None, seed=0)` seals `linear_onnx`; `seed` makes bundles differ."""
    import numpy as np

    from headway.bundles.golden import Sample
    from headway.bundles.manifest import Variant
    from headway.bundles.seal import Draft, seal
    from headway.core.tensors import TensorSpec

    def make(name: str = "linear", *, version: str = "1", out: Path | None = None, seed: int = 0) -> "Bundle":
        rows = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
        weights = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
        variant = Variant(
            id="fp32", file="", format="onnx", runtime="onnxruntime", precision="fp32", tolerance={"logits": 1e-5}
        )
        draft = Draft(
            name=name,
            version=version,
            inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 4), dims=("batch", "")),),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 3), dims=("batch", "")),),
            variants=(variant,),
            chosen="fp32",
        )
        sample = Sample({"input": rows}, {"logits": rows @ weights})
        folder = out or tmp_path / "sealed" / f"{name}-{version}-{seed}"
        return seal(folder, draft, models={"fp32": linear_onnx}, golden=[sample], report="<p>test</p>")

    return make
