"""ONNX export: names, the varying batch, what is refused and how it is said."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from headway.core.errors import TaskError
from headway.export.onnx import OnnxExport
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.torch_eager import TorchEagerSession


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Pair(nn.Module):
    """Two inputs, and a mapping of outputs in another order than the task names them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(3, 8)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": self.left(x), "unused": x, "logits": self.left(x) + self.right(y)}


def convolutional() -> nn.Module:
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(32, 10))


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, 1, 8, 8), dtype=np.float32)


def test_any_number_of_rows_agrees_with_eager(tmp_path: Path) -> None:
    model, out = convolutional(), tmp_path / "sub" / "model.onnx"
    OnnxExport().write(model, {"image": images(2)}, ("logits",), out)
    session = OnnxRuntime().load(out)
    assert [(i.name, i.shape, i.dims[0]) for i in session.inputs] == [("image", (-1, 1, 8, 8), "batch")]
    assert [(o.name, o.shape) for o in session.outputs] == [("logits", (-1, 10))]
    eager = TorchEagerSession(model, session.inputs, ("logits",))
    for rows in (1, 3, 17):
        have, want = session.run({"image": images(rows)}), eager.run({"image": images(rows)})
        np.testing.assert_allclose(have["logits"], want["logits"], rtol=1e-4, atol=1e-6)
    session.close()
    assert list(out.parent.iterdir()) == [out], "weights lie in the file, and nothing else is left"


def test_outputs_are_named_and_ordered_as_asked(tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    example = {"x": np.ones((2, 4), np.float32), "y": np.ones((2, 3), np.float32)}
    OnnxExport().write(Pair(), example, ("logits", "hidden"), out)
    session = OnnxRuntime().load(out)
    assert [spec.name for spec in session.inputs] == ["x", "y"]
    assert [spec.name for spec in session.outputs] == ["logits", "hidden"]


def test_the_file_is_the_same_each_time_and_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = convolutional()
    written = []
    for name in ("first.onnx", "second.onnx"):
        OnnxExport().write(model, {"image": images(2)}, ("logits",), tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert str(Path(__file__).parent).encode() not in written[0]
    assert b"stack_trace" not in written[0]
    kinds = [node.op_type for node in onnx.load_from_string(written[0]).graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 1


def test_nothing_is_printed_or_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    OnnxExport().write(convolutional(), {"image": images(2)}, ("logits",), tmp_path / "model.onnx")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    assert logging.root.manager.disable == logging.NOTSET


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.zeros(2, 1) if x.shape[0] == 2 else x


class Numpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 2)


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("needs five columns")


class Flattens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1)


class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Bessel(), "the operation 'bessel_j0' has no ONNX form"),
        (Branch(), r"test_onnx\.py:\d+: the model branches on a value"),
        (Fixed(), "one batch size only"),
        (Numpy(), "cannot be exported to ONNX"),
        (Raises(), r"test_onnx\.py:\d+: the model raises ValueError: needs five columns"),
        (Flattens(), "for 1 rows of input"),
        (NotANumber(), "is NaN"),
    ],
)
def test_what_cannot_be_exported_is_said_in_the_users_terms(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: nn.Module, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        OnnxExport().write(model, {"x": np.ones((2, 4), np.float32)}, ("y",), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_trace_that_lies_is_found_by_running_it(tmp_path: Path) -> None:
    class Frozen(nn.Module):
        """Answers otherwise while it is traced."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (2 if torch.compiler.is_exporting() else 3)

    with pytest.raises(TaskError, match="differs by 1 between ONNX Runtime and PyTorch"):
        OnnxExport().write(Frozen(), {"x": np.ones((2, 4), np.float32)}, ("y",), tmp_path / "model.onnx")


def test_more_weights_than_a_file_holds_are_refused_before_any_work(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(2**15, 2**15)
    with pytest.raises(TaskError, match=r"4\.3 GB of weights"):
        OnnxExport().write(model, {"x": np.ones((2, 4), np.float32)}, ("y",), tmp_path / "model.onnx")


class Masked(nn.Module):
    """The masked mean of vectors, for rows of any length."""

    def __init__(self, *, fixed: int | None = None) -> None:
        super().__init__()
        self.words, self.fixed = nn.Embedding(9, 4), fixed

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found = self.words(ids) * mask.unsqueeze(-1)
        return found.sum(1) * (2 if ids.shape[1] == self.fixed else 1)


LENGTHS = {"ids": {1: "words"}, "mask": {1: "words"}}


def words(rows: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(length).integers(0, 9, (rows, length))
    return {"ids": ids, "mask": np.ones((rows, length), np.float32)}


def test_what_a_task_says_varies_varies_and_is_named(tmp_path: Path) -> None:
    model, out = Masked(), tmp_path / "model.onnx"
    OnnxExport().write(model, words(2, 6), ("sum",), out, LENGTHS)
    session = OnnxRuntime().load(out)
    assert [(spec.shape, spec.dims) for spec in session.inputs] == [((-1, -1), ("batch", "words"))] * 2
    assert [(spec.shape, spec.dims[0]) for spec in session.outputs] == [((-1, 4), "batch")]
    eager = TorchEagerSession(model, session.inputs, ("sum",))
    for rows, length in ((1, 1), (3, 17)):
        given = words(rows, length)
        np.testing.assert_allclose(session.run(given)["sum"], eager.run(given)["sum"], rtol=1e-5)
    session.close()


def test_a_length_that_the_model_freezes_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="one batch size or words only"):
        OnnxExport().write(Masked(fixed=6), words(2, 6), ("sum",), tmp_path / "model.onnx", LENGTHS)
