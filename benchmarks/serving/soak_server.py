"""The server of the soak test, and the bundles that it serves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import psutil
from benchmarks.serving.soak_clients import OFFSET
from onnx import TensorProto, helper, numpy_helper

from headway.shipping.pack import pack

MODELS = ("calm", "rough")
END_S = 60.0  # for whatever must come to an end


def bundles(folder: Path) -> None:
    """`calm`, `rough`, and each one's other version beside it. They add a number to each id, and take their time."""
    random_values = np.random.default_rng(0)
    for version in (1, 2):
        weights = {
            "offset": np.array([[version * OFFSET]]),
            "wide": random_values.standard_normal((1, 1024), np.float32),
            "square": random_values.standard_normal((1024, 1024), np.float32),
        }
        nodes = [
            helper.make_node("Add", ["ids", "offset"], ["same"]),
            helper.make_node("Cast", ["ids"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["float", "wide"], ["work1"]),
            helper.make_node("Tanh", ["work1"], ["work2"]),
            helper.make_node("MatMul", ["work2", "square"], ["work"]),
        ]
        graph = helper.make_graph(
            nodes,
            "ids",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 1])],
            [
                helper.make_tensor_value_info("same", TensorProto.INT64, ["batch", 1]),
                helper.make_tensor_value_info("work", TensorProto.FLOAT, ["batch", 1024]),
            ],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        model, inputs = folder / "ids.onnx", folder / "ids.npz"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
        np.savez(inputs, ids=np.arange(4)[:, None])
        for name in MODELS:
            out = folder / (name if version == 1 else f"{name}-other")
            pack(model, name=name, version=str(version), out=out, inputs=inputs)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[psutil.Process, str, str]]:
    """A real server process: itself, where it answers REST, and where gRPC."""
    command = [Path(sys.executable).with_name("headway"), "serve", *(folder / name for name in MODELS)]
    command += ["--http-port", "0", "--grpc-port", "0", "--threads", "1", "--choose-seconds", "0", "--json"]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as server,
    ):
        try:
            said: IO[bytes] | None = server.stdout
            assert said is not None
            ready = json.loads(said.readline() or "null")
            if ready is None:
                raise RuntimeError(f"the server did not start: {folder / 'server.log'}")
            yield psutil.Process(server.pid), ready["url"], ready["grpc"]
        finally:
            server.terminate()
            server.wait(END_S)
