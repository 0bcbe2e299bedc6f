"""The same network through what exists: each with its defaults, on the same calibration rows."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from benchmarks.serving.servers import environment
from torch import nn

from headway.core.files import write_atomic
from headway.core.tensors import Array
from headway.export.quiet import quiet

PEERS = Path(__file__).parent / "peers"


def onnxruntime_static(graph: Path, rows: Array, out: Path) -> None:
    """ONNX Runtime's own static quantization: prepared as its documentation asks, and every default."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        left = iter(rows)

        def get_next(self) -> dict[str, Array] | None:
            row = next(self.left, None)
            return None if row is None else {"image": row[None]}

    with quiet(), tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        quant_pre_process(graph, prepared)
        quantize_static(prepared, made, Reader())
        write_atomic(out, made.read_bytes())


def torch_dynamic(model: nn.Module) -> nn.Module:
    """PyTorch's dynamic quantization; of convolutions it has none."""
    with quiet():
        return torch.ao.quantization.quantize_dynamic(model)


class Nncf:
    """NNCF and OpenVINO in an environment of their own; as a session, it runs what was loaded last."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process, self._folder = process, folder

    def ask(self, *words: str | Path) -> None:
        """Have one command done. Raises `SystemExit` where the peer has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise SystemExit("the environment of NNCF failed; what it said stands above")

    def quantize(self, graph: Path, rows: Array, folder: Path) -> None:
        """Write `nncf.onnx`, `nncf.bin` and `nncf.xml` into `folder`."""
        np.save(self._folder / "in.npy", rows)
        with tempfile.TemporaryDirectory() as made:
            self.ask("quantize", graph, self._folder / "in.npy", made)
            for name in ("nncf.onnx", "nncf.bin", "nncf.xml"):
                write_atomic(folder / name, (Path(made) / name).read_bytes())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answers of the loaded model."""
        np.save(self._folder / "in.npy", inputs["image"])
        self.ask("answer", self._folder / "in.npy", self._folder / "out.npy")
        return {"logits": np.load(self._folder / "out.npy")}

    def again(self) -> None:
        """Run the last answer's first row once more."""
        self.ask("again")


@contextmanager
def nncf(folder: Path) -> Iterator[Nncf]:
    """The peer, started; its environment is made on first use."""
    command = [environment("nncf", PEERS), PEERS / "nncf" / "peer.py"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    ) as process:
        try:
            yield Nncf(process, folder)
        finally:
            process.terminate()
