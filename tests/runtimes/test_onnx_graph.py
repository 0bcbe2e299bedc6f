"""The main graph of a file, without the onnx package."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headway.core.errors import FormatError
from headway.runtimes.onnx_graph import Node, read_graph


def test_nodes_and_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Clip", ["x", "", "top"], ["y"], name="clip"),
        helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "z")]
    weights = [numpy_helper.from_array(np.ones((), np.float32), "top")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [*weights, numpy_helper.from_array(np.ones((2, 3)), "w")])
    onnx.save(helper.make_model(graph), tmp_path / "a.onnx")
    found = read_graph(tmp_path / "a.onnx")
    assert found.nodes == (
        Node("clip", "Clip", ("x", "", "top"), ("y",)),
        Node("", "com.microsoft.Gelu", ("y",), ("z",)),
    )
    assert found.weights == {"top": (), "w": (2, 3)}


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\x7f"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(FormatError):
        read_graph(tmp_path / "a.onnx")
