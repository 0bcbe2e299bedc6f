"""The same classifier through what exists: each as its documentation has it, on the same calibration texts."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from benchmarks.serving.servers import environment
from torch import nn

from headway.core.tensors import Array
from headway.export.quiet import quiet
from headway.tasks.parts import Part

PEERS = Path(__file__).parent / "peers"


def onnxruntime_dynamic(graph: Path, out: Path) -> None:
    """ONNX Runtime's own dynamic quantization, with every default."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(graph)
    model.graph.ClearField("value_info")  # it transposes weights, and trips over the shapes that they had
    with quiet():
        quantize_dynamic(model, out)


def torch_dynamic(model: nn.Module) -> nn.Module:
    """PyTorch's dynamic quantization of linear layers, with every default."""
    with quiet():
        made: nn.Module = torch.ao.quantization.quantize_dynamic(model)
    return made


def save_texts(part: Part, file: Path) -> None:
    """All rows of a part, as the peer reads them."""
    rows = [part.batch(np.array([row]))[0]["input_ids"][0] for row in range(len(part))]
    np.savez(file, ids=np.concatenate(rows), lengths=np.array([len(row) for row in rows]))


class Nncf:
    """NNCF and OpenVINO in an environment of their own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, *words: str | Path) -> None:
        """Have one command done (see `peers/nncf/peer.py`). Raises `SystemExit` where the peer has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise SystemExit("the environment of NNCF failed; what it said stands above")

    def answers(self, folder: Path) -> Mapping[str, Array]:
        """Logits of all texts that it loaded."""
        self.ask("answer", folder / "answers.npy")
        return {"logits": np.load(folder / "answers.npy")}


@contextmanager
def nncf() -> Iterator[Nncf]:
    """The peer, started; its environment is made on first use."""
    command = [environment("nncf", PEERS), PEERS / "nncf" / "peer.py"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    ) as process:
        try:
            yield Nncf(process)
        finally:
            process.terminate()
