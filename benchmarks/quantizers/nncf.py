"""NNCF and OpenVINO in an environment of their own, spoken to over pipes."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from benchmarks.serving.servers import environment

from headway.core.files import write_atomic
from headway.core.tensors import Array
from headway.tasks.parts import Part

PEERS = Path(__file__).parent / "peers"


class Nncf:
    """A process that does one command after the other; `peers/nncf/` says which."""

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


class Pictures(Nncf):
    """On rows of one size; as a session, it runs what was loaded last."""

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


class Texts(Nncf):
    """On texts of their own lengths."""

    def answers(self) -> Mapping[str, Array]:
        """Logits of all texts that it loaded."""
        self.ask("answer", self._folder / "answers.npy")
        return {"logits": np.load(self._folder / "answers.npy")}


@contextmanager
def pictures(folder: Path) -> Iterator[Pictures]:
    """The peer, started; its environment is made on first use.

    Args:
        folder: where files are passed.
    """
    with _process("pictures") as process:
        yield Pictures(process, folder)


@contextmanager
def texts(folder: Path) -> Iterator[Texts]:
    """The same for texts."""
    with _process("texts") as process:
        yield Texts(process, folder)


def save_texts(part: Part, file: Path) -> None:
    """All rows of a part, as the peer reads them."""
    rows = [part.batch(np.array([row]))[0]["input_ids"][0] for row in range(len(part))]
    np.savez(file, ids=np.concatenate(rows), lengths=np.array([len(row) for row in rows]))


@contextmanager
def _process(script: str) -> Iterator["subprocess.Popen[str]"]:
    command = [environment("nncf", PEERS), PEERS / "nncf" / f"{script}.py"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
