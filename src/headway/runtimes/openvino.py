"""OpenVINO: ONNX files and its own format (IR), on Intel's CPUs, GPUs and NPUs, and on Arm CPUs."""

import json
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from headway.core.errors import FormatError, MissingDependencyError, RequestError
from headway.core.plugins import missing
from headway.core.tensors import DATATYPES, DYNAMIC, Array, TensorSpec
from headway.runtimes.formats import Format, model_files, recognise, require_whole_onnx
from headway.runtimes.runtime import Availability

if TYPE_CHECKING:
    import openvino

DEVICES = {"cpu": "CPU", "gpu": "GPU", "xpu": "GPU", "npu": "NPU"}
_TELEMETRY = "openvino_telemetry"
_DIMS = ("headway", "dims")  # where our IR keeps the names of dimensions, which OpenVINO has none for
_NOISE = re.compile(r"Exception from \S+:\d+:|Check '.*' failed at \S+:\d+:|FrontEnd API failed with \w+:")
_MOST_SHAPES = 4096  # that are remembered as sound
_WIDE = ("INT64", "UINT64", "UINT32")
# OpenVINO's names of element types that are not the Open Inference Protocol's in small letters.
_DATATYPES = {"boolean": "BOOL", "f16": "FP16", "f32": "FP32", "f64": "FP64", "bf16": "BF16", "string": "BYTES"} | {
    f"{short}{bits}": f"{long}{bits}" for short, long in (("i", "INT"), ("u", "UINT")) for bits in (8, 16, 32, 64)
}


class OpenVinoSession:
    """A compiled model. Threads may call `run` at once; with one stream their runs queue inside OpenVINO.

    Every run takes an idle infer request, or makes one: `deque` hands them out without a lock.
    """

    thread_safe = True

    def __init__(self, model: "openvino.CompiledModel", read: "Read") -> None:
        self.inputs, self.outputs = read.inputs, read.outputs
        self._shapes = _Shapes(read)
        self._idle: deque[openvino.InferRequest] = deque()
        self._model: openvino.CompiledModel | None = model
        self._tensor = _engine().Tensor

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. An input is shared where it is contiguous and writeable, and copied elsewhere.

        Raises:
            RequestError: the model refuses the values, such as a shape that does not fit.
        """
        if self._model is None:
            raise RuntimeError("the session is closed")
        self._shapes.check({spec.name: inputs[spec.name].shape for spec in self.inputs})
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        try:
            for number, spec in enumerate(self.inputs):
                value = inputs[spec.name]
                if spec.datatype in _WIDE:
                    _narrow(value, spec.name)
                if not value.flags.c_contiguous:
                    value = value.copy()
                request.set_input_tensor(number, self._tensor(value, shared_memory=value.flags.writeable))
            request.infer(share_outputs=True)
            # Copied: the next run of this request writes into the same memory.
            outputs = {spec.name: request.get_output_tensor(i).data.copy() for i, spec in enumerate(self.outputs)}
        except RuntimeError as error:  # the one kind that OpenVINO raises
            raise RequestError(f"the model refuses these inputs: {_reason(error)}") from error
        self._idle.append(request)
        return outputs

    def close(self) -> None:
        """Free the model."""
        self._model = None
        self._idle.clear()


class _Shapes:
    """Proves that shapes pass through the graph, each combination once.

    With one thread OpenVINO 2026.4 loses the error of an operator that a shape does not suit: the run seems to succeed
    and the outputs are those of the run before, which may be another caller's. So such a run must never begin.
    """

    def __init__(self, read: "Read") -> None:
        self._graph = read.graph.clone() if any(DYNAMIC in spec.shape for spec in read.inputs) else None
        self._known: set[tuple[tuple[int, ...], ...]] = set()
        self._lock = Lock()

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `RequestError` for shapes that some operator refuses."""
        key = tuple(shapes.values())
        if self._graph is None or key in self._known:
            return
        with self._lock:
            try:
                self._graph.reshape({name: list(shape) for name, shape in shapes.items()})
            except RuntimeError as error:
                raise RequestError(f"the model refuses these inputs: {_reason(error)}") from error
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            self._known.add(key)


class OpenVinoRuntime:
    """Loads ONNX files and OpenVINO IR (`.xml` with its `.bin` beside it)."""

    name = "openvino"
    formats = frozenset({"onnx", "openvino"})
    devices = ("cpu", "gpu", "npu")
    runs_qdq = False

    def available(self, device: str = "cpu") -> Availability:
        """Whether OpenVINO is installed and finds `device`."""
        try:
            engine = _engine()
        except ModuleNotFoundError:
            return Availability(False, "openvino is not installed: pip install 'headway[openvino]'")
        version = engine.__version__.partition("-")[0]
        have = {name.partition(".")[0] for name in engine.Core().available_devices}  # GPU.0, GPU.1
        if DEVICES.get(device) not in have:
            return Availability(False, f"openvino {version} finds no {device} here, but {', '.join(sorted(have))}")
        return Availability(True, f"openvino {version}, {DEVICES[device]}")

    def load(self, path: Path, *, device: str = "cpu", threads: int = 1) -> OpenVinoSession:
        """Compile a model; `threads` run inside one run, and are not pinned to cores, which other models may use.

        Raises:
            FormatError: not a model, truncated, of an operator that OpenVINO lacks, or with text inputs or outputs.
            MissingDependencyError: OpenVINO is not installed, or finds no such device.
        """
        try:
            engine = _engine()
        except ModuleNotFoundError as error:
            raise missing("openvino", needed_by=str(path), extra="openvino") from error
        availability = self.available(device)
        if not availability.ready:
            raise MissingDependencyError(availability.detail, where=str(path))
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if DEVICES[device] == "CPU":
            # 32 bits stay 32 bits: on CPUs that have bfloat16, OpenVINO would compute in that.
            settings = {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": "f32",
            }
        try:
            model = read_model(path)
            compiled = _aside(partial(engine.Core().compile_model, model.graph, DEVICES[device], settings))
        except (RuntimeError, ValueError) as error:
            raise FormatError(
                f"OpenVINO cannot load it: {_reason(error)}",
                where=str(path),
                remedy="It must be a whole ONNX or IR file, of operators that this OpenVINO knows.",
            ) from error
        return OpenVinoSession(compiled, model)


def _aside(work: Callable[[], Any]) -> Any:
    """Do `work` in a thread of its own.

    OpenVINO 2026.4 gives the thread that compiles a signal stack, and takes it away with the model. Where two models
    are freed in the order in which they were made, the thread is left with the first one's, which is gone, and the next
    signal that Python handles there ends the process. A thread that has ended is sent none.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


class Read(NamedTuple):
    """A model that is not compiled yet."""

    graph: "openvino.Model"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_model(path: Path) -> Read:
    """The graph of an ONNX or IR file, with the names that the file gives to tensors and dimensions.

    OpenVINO guesses formats, and opens what an ONNX file points to: format and references are checked before.

    Raises:
        FormatError: neither of the two, its weights are missing or lie elsewhere, or it takes or gives text.
        RuntimeError: OpenVINO cannot read it.
    """
    core, named = _engine().Core(), dict[str, tuple[str, ...]]()
    if recognise(path) is Format.OPENVINO:
        xml, weights = model_files(path)
        graph = core.read_model(str(xml), str(weights))
        if graph.has_rt_info([*_DIMS]):
            named = {name: tuple(dims) for name, dims in json.loads(graph.get_rt_info([*_DIMS]).astype(str)).items()}
    else:
        about = require_whole_onnx(path)
        graph = core.read_model(str(path))
        # Of several names that one tensor can have, the one that the file gives to what goes in and out.
        for ports, values in ((graph.inputs, about.inputs), (graph.outputs, about.outputs)):
            for port, value in zip(ports, values, strict=True):
                port.get_tensor().set_names({value.name})
                named[value.name] = tuple(d if isinstance(d, str) and d != "?" else "" for d in value.shape or ())
    inputs = tuple(_spec(port, named, path) for port in graph.inputs)
    return Read(graph, inputs, tuple(_spec(port, named, path) for port in graph.outputs))


def save_ir(model: Read, path: Path) -> None:
    """Write IR: `path`, an `.xml`, and the weights in 32 bits beside it."""
    dims = {spec.name: spec.dims for spec in (*model.inputs, *model.outputs)}
    model.graph.set_rt_info(json.dumps(dims), [*_DIMS])
    _engine().save_model(model.graph, str(path), compress_to_fp16=False)


def _spec(port: Any, named: Mapping[str, tuple[str, ...]], path: Path) -> TensorSpec:
    name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
    spelt = port.get_element_type().get_type_name()
    kind = _DATATYPES.get(spelt, spelt)
    if kind == "BYTES" or kind not in {row.name for row in DATATYPES}:
        raise FormatError(
            f"{name!r} holds {'text' if kind == 'BYTES' else kind}, which Headway does not give to OpenVINO",
            where=str(path),
            remedy="Run it in ONNX Runtime.",
        )
    if port.get_partial_shape().rank.is_dynamic:
        raise FormatError(f"{name!r} has no fixed number of dimensions", where=str(path))
    shape = tuple(DYNAMIC if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    dims = named.get(name, ())
    return TensorSpec(name=name, datatype=kind, shape=shape, dims=dims if len(dims) == len(shape) else ())


def _narrow(value: Array, name: str) -> None:
    """Refuse what OpenVINO would clip: on the CPU it computes whole numbers of 64 bits in 32."""
    if value.size and (value.min() < -(2**31) or value.max() >= 2**31):
        raise RequestError("whole numbers beyond 32 bits, which OpenVINO would clip", where=f"input {name!r}")


def _reason(error: Exception) -> str:
    """OpenVINO's message on one line, without the lines of its own source."""
    return " ".join(_NOISE.sub("", str(error)).split())[:300]


def _engine() -> Any:
    """The package, imported without its telemetry: OpenVINO reports every import to its maker's statistics.

    A server tells nobody that it started. OpenVINO takes a stub where the module that sends is absent.
    """
    if _TELEMETRY in sys.modules:  # a user's own doing
        import openvino

        return openvino
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        import openvino
    finally:
        del sys.modules[_TELEMETRY]
    return openvino
