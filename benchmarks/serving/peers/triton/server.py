"""NVIDIA Triton: the server that nvidia-pytriton carries, with its Python backend and dynamic batching.

The package has no ONNX backend. Its Python backend needs numpy below 2, its own libraries and this Python's on
LD_LIBRARY_PATH, and the stub of this Python's version inside the backend's folder.
"""

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytriton
from greedy import MAX_ROWS, Model

HERE = Path(__file__).parent
CONFIG = """
backend: "python"
max_batch_size: {rows}
input [{{ name: "{input}", data_type: TYPE_FP32, dims: {shape} }}]
output [{{ name: "{output}", data_type: TYPE_FP32, dims: [-1] }}]
dynamic_batching {{ }}
instance_group [{{ count: 1, kind: KIND_CPU }}]
"""


def repository(folder: Path, path: str) -> Path:
    """A model repository with the one model."""
    model = Model(path)
    files = folder / "models" / "cnn" / "1"
    files.mkdir(parents=True)
    config = CONFIG.format(rows=MAX_ROWS, input=model.input, output=model.output, shape=list(model.row))
    (files.parent / "config.pbtxt").write_text(config)
    shutil.copy(HERE / "model.py", files)
    (files / "places.json").write_text(json.dumps({"model": path, "path": [p for p in sys.path if p]}))
    return folder / "models"


def backends(folder: Path, triton: Path) -> Path:
    """A copy of the backends with the stub for this Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(triton / "backends", folder / "backends")
    shutil.copy(
        triton / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "backends" / "python"
    )
    return folder / "backends"


if __name__ == "__main__":
    package = Path(pytriton.__file__).parent
    place = Path(tempfile.mkdtemp(prefix="triton-", dir=os.environ.get("TMPDIR")))
    libraries = [str(package.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    server = package / "tritonserver"
    os.environ["LD_LIBRARY_PATH"] = ":".join(libraries)
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository(place, sys.argv[1])}",
        f"--backend-directory={backends(place, server)}",
        f"--cache-directory={server / 'caches'}",
        "--http-address=127.0.0.1",
        f"--http-port={sys.argv[2]}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    os.execv(command[0], command)  # noqa: S606
