"""ONNX Runtime's own profiler: a session that writes what each node took, and the graph its optimizer made.

Event names and fields are those of ONNX Runtime's trace: a node's event is called after it with `_kernel_time`, and
`dur` is in whole microseconds (https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html).
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from headway.core.errors import FormatError
from headway.core.tensors import Array
from headway.runtimes.onnx_graph import read_graph
from headway.runtimes.profiling import Operator

if TYPE_CHECKING:
    import onnxruntime

    from headway.runtimes.onnx_runtime import OnnxSession

_EVENT = "_kernel_time"
_BLOCKED = "com.microsoft.nchwc."


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
        taken: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
                taken[event["name"].removesuffix(_EVENT)].append(float(event["dur"]))
        nodes = {node.name: node for node in graph.nodes}
        if len(nodes) != len(graph.nodes) or not taken.keys() >= nodes.keys():
            raise FormatError("ONNX Runtime's trace does not name the nodes of its graph; it cannot be read")
        return tuple(
            Operator(
                name=node.name,
                kind=node.operator.rpartition(".")[2],
                blocked=node.operator.startswith(_BLOCKED),
                inputs=node.inputs,
                outputs=node.outputs,
                weights={name: graph.weights[name] for name in node.inputs if name in graph.weights},
                microseconds=tuple(taken[node.name]),
            )
            for node in (nodes[name] for name in taken if name in nodes)
        )

    def close(self) -> None:
        """End the recording and remove its files."""
        if self._open:
            self._open = False
            self._session.end_profiling()
        self._session.close()
        shutil.rmtree(self._folder, ignore_errors=True)
