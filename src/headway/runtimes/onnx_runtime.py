"""ONNX Runtime: what serves an ONNX file on a CPU, and on an accelerator whose provider is installed."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.core.errors import FormatError, MissingDependencyError, RequestError
from headway.core.heap import trim
from headway.core.plugins import missing
from headway.core.tensors import DYNAMIC, Array, TensorSpec, from_ort
from headway.runtimes.onnx_graph import Graph, read_graph
from headway.runtimes.onnx_profile import OnnxProfilingSession
from headway.runtimes.runtime import Availability

if TYPE_CHECKING:
    import onnxruntime

# By device, the provider that must start, and those that take what it leaves. TensorRT is asked for by name: it builds
# an engine for every shape, which takes minutes.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "rocm": ("MIGraphXExecutionProvider", "CPUExecutionProvider"),
    "cann": ("CANNExecutionProvider", "CPUExecutionProvider"),
    "xpu": ("OpenVINOExecutionProvider", "CPUExecutionProvider"),
    "mps": ("CoreMLExecutionProvider", "CPUExecutionProvider"),
}
# Packages that bring a provider instead of the plain onnxruntime; https://onnxruntime.ai/docs/execution-providers/
PACKAGES = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "rocm": "onnxruntime-migraphx",
    "cann": "onnxruntime-cann",
    "xpu": "onnxruntime-openvino",
    "mps": "onnxruntime",
}
_OPTIONS = {"OpenVINOExecutionProvider": {"device_type": "GPU"}}
_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |^Exception during initialization: "
    r"|Load model from .* failed:|/\S+\.(?:cc|h):\d+ .*\) "
)
_ERROR = 3  # ONNX Runtime's log severity: what it warns of during graph optimisation is no user's concern


class OnnxSession:
    """A loaded ONNX model. ONNX Runtime lets several threads call `run` at once.

    Attributes:
        provider: the execution provider that runs it.
    """

    thread_safe = True

    def __init__(self, session: "onnxruntime.InferenceSession") -> None:
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self.provider: str = session.get_providers()[0]
        self._texts = [spec.name for spec in self.inputs if spec.datatype == "BYTES"]
        self._output_names = [spec.name for spec in self.outputs]
        self._run = session.run
        self.end_profiling = session.end_profiling
        self._wrong_input = _state().InvalidArgument

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            RequestError: the model refuses the values, such as an index that is out of its table's range, or text is
                not UTF-8.
        """
        given = dict(inputs)
        for name in self._texts:
            given[name] = _text(given[name], name)
        try:
            outputs = self._run(self._output_names, given)
        except self._wrong_input as error:
            raise RequestError(f"the model refuses these inputs: {_reason(error)}") from error
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        """Free the model."""
        self._run = self.end_profiling = _closed


class OnnxRuntime:
    """Loads ONNX files with every graph optimisation."""

    name = "onnxruntime"
    formats = frozenset({"onnx"})
    devices = tuple(PROVIDERS)
    runs_qdq = True

    def available(self, device: str = "cpu") -> Availability:
        """Whether ONNX Runtime is installed with a provider for `device`."""
        try:
            import onnxruntime
        except ModuleNotFoundError:
            return Availability(False, "onnxruntime is not installed: pip install onnxruntime")
        providers = _providers(device)
        if not providers:
            how = f": pip install {PACKAGES[device]}" if device in PACKAGES else ""
            return Availability(False, f"onnxruntime {onnxruntime.__version__} has no provider for {device}{how}")
        return Availability(True, f"onnxruntime {onnxruntime.__version__}, {providers[0]}")

    def load(self, path: Path, *, device: str = "cpu", threads: int = 1) -> OnnxSession:
        """Load an ONNX file; `threads` run inside an operator, and operators run one after the other.

        Raises:
            FormatError: not an ONNX model, truncated, or of an opset or operator this ONNX Runtime lacks.
            MissingDependencyError: no provider for `device`.
        """
        return self._open(path, device, self._options(path, device, threads))

    def reference(self, path: Path) -> OnnxSession:
        """Load an ONNX file to be computed node by node, as it says: nothing is fused or folded.

        Raises:
            FormatError: as `load`.
        """
        import onnxruntime

        options = self._options(path, "cpu", 1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return self._open(path, "cpu", options)

    def profile(self, path: Path, *, device: str = "cpu", threads: int = 1) -> OnnxProfilingSession:
        """Load an ONNX file as `load` does, with every node's time recorded."""
        return OnnxProfilingSession(self._options(path, device, threads), partial(self._open, path, device))

    def graph(self, path: Path) -> Graph:
        """The nodes as the file has them."""
        return read_graph(path)

    def _options(self, path: Path, device: str, threads: int) -> "onnxruntime.SessionOptions":
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise missing("onnxruntime", needed_by=str(path)) from error
        availability = self.available(device)
        if not availability.ready:
            raise MissingDependencyError(availability.detail, where=str(path))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERROR
        # Threads that spin between runs would take the cores that the event loop, or another model's run, needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # It would put layers that a quantized file keeps in 32 bits back into 8, at full range and one scale a tensor.
        options.add_session_config_entry("optimization.disable_specified_optimizers", "WeightBiasQuantization")
        return options

    def _open(self, path: Path, device: str, options: "onnxruntime.SessionOptions") -> OnnxSession:
        import onnxruntime

        if not path.is_file():
            raise FormatError("no such model file", where=str(path))
        try:
            providers = _providers(device)
            settings = [_OPTIONS.get(provider, {}) for provider in providers]
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, provider_options=settings)
        except _load_errors() as error:
            raise FormatError(
                f"ONNX Runtime cannot load it: {_reason(error)}",
                where=str(path),
                remedy="It must be a whole ONNX file of an opset that this ONNX Runtime knows.",
            ) from error
        if session.get_providers()[0] != providers[0]:  # ONNX Runtime falls back to the CPU without an error
            raise MissingDependencyError(f"{providers[0]} is installed but does not start here", where=str(path))
        trim()  # the file's own copies of the weights: two thirds of what a ResNet-18 would hold on to
        return OnnxSession(session)


def _providers(device: str) -> list[str]:
    """The providers for a device that this ONNX Runtime was built with; none where the first is not among them."""
    import onnxruntime

    wanted, have = PROVIDERS.get(device, ()), onnxruntime.get_available_providers()
    return [name for name in wanted if name in have] if wanted and wanted[0] in have else []


def _text(value: Array, name: str) -> Array:
    """The same elements as `str`, which is all that ONNX Runtime takes; on the wire they are bytes."""
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in value.flat]
    except UnicodeDecodeError:
        raise RequestError("the model takes text, and an element is not UTF-8", where=f"input {name!r}") from None
    found = np.empty(len(flat), dtype=object)
    found[:] = flat
    return found.reshape(value.shape)


def _spec(node: Any) -> TensorSpec:
    return TensorSpec(
        name=node.name,
        datatype=from_ort(node.type).name,
        shape=tuple(dim if isinstance(dim, int) and dim >= 0 else DYNAMIC for dim in node.shape),
        dims=tuple(dim if isinstance(dim, str) else "" for dim in node.shape),
    )


def _state() -> Any:
    """The module where ONNX Runtime keeps its exceptions: it has no public one."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    return onnxruntime_pybind11_state


def _load_errors() -> tuple[type[Exception], ...]:
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "EPFail")
    own = tuple(getattr(_state(), name) for name in (*names, "RuntimeException", "NoModel"))
    return (RuntimeError, ValueError, *own)


def _reason(error: Exception) -> str:
    """ONNX Runtime's message on one line, without error numbers, the file's name and lines of its own source."""
    return " ".join(_NOISE.sub("", str(error)).split())[:300]


def _closed(*_: object) -> list[Array]:
    raise RuntimeError("the session is closed")
