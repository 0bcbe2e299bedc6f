"""ONNX Runtime's own profiler: a session that writes what each node took, and the graph its optimizer made.

Event names and fields are those of ONNX Runtime's trace: a node's event is called after it with `_kernel_time`, and
`dur` is in whole microseconds (https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html).
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from headway.core.errors import FormatError
from headway.core.tensors import Array
from headway.runtimes.onnx_graph import Graph, read_graph
from headway.runtimes.onnx_traffic import traffic
from headway.runtimes.profiling import Operator

if TYPE_CHECKING:
    import onnxruntime

    from headway.runtimes.onnx_runtime import OnnxSession

_EVENT = "_kernel_time"
_BLOCKED = "com.microsoft.nchwc."
_Event = tuple[str, str, str]  # a node's name in the trace, its kind, and its index


class OnnxProfilingSession:
    """A recorded session. Its files lie in a folder that only this user can read, and go with it.

    Args:
        options: those of `OnnxRuntime.load`.
        load: makes the session from the options.
    """

    def __init__(
        self, options: "onnxruntime.SessionOptions", load: "Callable[[onnxruntime.SessionOptions], OnnxSession]"
    ) -> None:
        self._folder = Path(mkdtemp(prefix="headway-profile-"))
        self._optimized = self._folder / "optimized.onnx"
        options.enable_profiling = True
        options.profile_file_prefix = str(self._folder / "trace")
        options.optimized_model_filepath = str(self._optimized)
        try:
            self._session = load(options)
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        self.inputs = self._session.inputs
        self._open = True

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        return self._session.run(inputs)

    def finish(self) -> tuple[Operator, ...]:
        """What each node of the optimized graph took, in the order of execution.

        Nodes within a loop or a branch count for the node that holds them.

        Raises:
            FormatError: the trace and the graph do not speak of the same nodes.
        """
        try:
            trace = Path(self._session.end_profiling())
            self._open = False
            events = json.loads(trace.read_text(encoding="utf-8"))
            graph = read_graph(self._optimized)
        finally:
            self.close()
        return _operators(graph, *_by_event(events))

    def close(self) -> None:
        """End the recording and remove its files."""
        if self._open:
            self._open = False
            self._session.end_profiling()
        self._session.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _by_event(events: Iterable[Mapping[str, Any]]) -> tuple[dict[_Event, list[float]], dict[_Event, dict[str, Any]]]:
    """Microseconds of each node's runs, in the order of execution; and what the trace says of the last."""
    taken: dict[_Event, list[float]] = {}
    last: dict[_Event, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            about = event["args"]
            key = event["name"].removesuffix(_EVENT), about["op_name"], about["node_index"]
            taken.setdefault(key, []).append(float(event["dur"]))
            last[key] = about
    return taken, last


def _operators(
    graph: Graph, taken: Mapping[_Event, list[float]], last: Mapping[_Event, dict[str, Any]]
) -> tuple[Operator, ...]:
    """The graph's nodes with their times. Events of nodes within a loop or a branch are left over."""
    left = list(taken)
    found = []
    for node in graph.nodes:
        kind = node.operator.rpartition(".")[2]
        # A node without a name goes by its kind and index in the trace.
        event = next((e for e in left if e[0] == (node.name or f"{kind}_{e[2]}") and e[1] == kind), None)
        if event is None:
            raise FormatError(f"ONNX Runtime's trace has no {kind} {node.name!r}, which its graph has")
        left.remove(event)
        operator = Operator(
            name=event[0],
            kind=kind,
            blocked=node.operator.startswith(_BLOCKED),
            inputs=node.inputs,
            outputs=node.outputs,
            weights={name: graph.weights[name] for name in node.inputs if name in graph.weights},
            microseconds=tuple(taken[event]),
            **traffic(node, graph, last[event])._asdict(),
        )
        found.append((event, operator))
    position = {event: i for i, event in enumerate(taken)}
    return tuple(operator for _, operator in sorted(found, key=lambda pair: position[pair[0]]))
