"""Counts against torch's own counter on modules that ONNX Runtime has run, and against counts by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.measure.graphs import chain, static
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from headway.core.tensors import Array
from headway.export.quiet import quiet
from headway.measure.count import _DENSE, Work, operations
from headway.measure.profile import Layer, profile
from headway.runtimes.onnx_runtime import OnnxRuntime

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ran(file: Path, inputs: Mapping[str, Array]) -> tuple[Layer, ...]:
    (found,) = profile(OnnxRuntime(), {"it": file}, inputs, seconds=0).values()
    return found.layers


def work(layer: Layer) -> Work:
    assert layer.work is not None
    return layer.work


def dense(layers: tuple[Layer, ...]) -> int:
    return sum(work(layer).operations or 0 for layer in layers if layer.kind in _DENSE)


def exported(module: nn.Module, x: torch.Tensor, file: Path) -> tuple[int, tuple[Layer, ...]]:
    """What torch counts, and the operators that ONNX Runtime ran."""
    module.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(x)
    with quiet():
        torch.onnx.export(module, (x,), file, input_names=["x"], dynamo=False)
    return counter.get_total_flops(), ran(file, {"x": x.numpy()})


class TestAgainstTorch:
    @QUICK
    @given(
        groups=st.sampled_from([1, 2, 5]),
        wide=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        kernel=st.sampled_from([1, 2, 3]),
        stride=st.integers(1, 2),
        padding=st.integers(0, 2),
        dilation=st.integers(1, 2),
        rows=st.integers(1, 3),
    )
    def test_convolutions_of_every_form(
        self, tmp_path: Path, groups: int, wide: tuple[int, int], kernel: int, stride: int, padding: int,
        dilation: int, rows: int,
    ) -> None:  # fmt: skip
        """Such as those whose channels the runtime pads to whole blocks: the padding does not count."""
        conv = nn.Conv2d(
            groups * wide[0], groups * wide[1], kernel, stride, padding, dilation, groups=groups
        )  # fmt: skip
        told, layers = exported(conv, torch.ones(rows, groups * wide[0], 11, 9), tmp_path / "a.onnx")
        assert dense(layers) == told > 0

    @QUICK
    @given(rows=st.integers(1, 4), inner=st.integers(1, 9), out=st.integers(1, 9), deep=st.booleans())
    def test_linear_layers(self, tmp_path: Path, rows: int, inner: int, out: int, deep: bool) -> None:
        x = torch.ones(rows, 3, inner) if deep else torch.ones(rows, inner)
        told, layers = exported(nn.Linear(inner, out), x, tmp_path / "a.onnx")
        assert dense(layers) == told > 0

    @pytest.mark.parametrize(
        ("module", "shape"),
        [
            (nn.Conv2d(12, 12, 3, groups=12, padding=1), (2, 12, 8, 8)),
            (nn.Conv1d(3, 20, 5), (2, 3, 16)),
            (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (2, 6, 5, 5)),
            (nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 7, 3), nn.Flatten(), nn.Linear(112, 5)),
             (3, 3, 8, 8)),
        ],
    )  # fmt: skip
    def test_nets(self, tmp_path: Path, module: nn.Module, shape: tuple[int, ...]) -> None:
        told, layers = exported(module, torch.ones(shape), tmp_path / "a.onnx")
        assert dense(layers) == told > 0

    def test_attention(self, tmp_path: Path) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.all, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                q, k, v = (t.reshape(2, 7, 3, 8).transpose(1, 2) for t in self.all(x).chunk(3, -1))
                mixed: torch.Tensor = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1) @ v
                out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(2, 7, 24))
                return out

        told, layers = exported(Attention(), torch.ones(2, 7, 24), tmp_path / "a.onnx")
        assert dense(layers) == told > 0

    def test_recurrent_by_hand(self, tmp_path: Path) -> None:
        """torch's counter sees no products in an LSTM: 2 x steps x rows x (4 h i + 4 h h)."""
        lstm = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        _, layers = exported(lstm, torch.ones(3, 4, 5), tmp_path / "a.onnx")
        assert dense(layers) == 2 * 2 * 4 * 3 * (4 * 6 * 5 + 4 * 6 * 6)


class TestByHand:
    def test_a_net_in_8_bits_does_what_the_float_one_did(self, tmp_path: Path) -> None:
        parent = chain(tmp_path / "a.onnx", [4, 8, 8])
        child = static(parent, tmp_path / "b.onnx")
        x = {"x": np.ones((3, 4, 16, 16), np.float32)}
        expected = 2 * 3 * 16 * 16 * 9 * (4 * 8 + 8 * 8)
        was, now = ran(parent, x), ran(child, x)
        assert dense(was) == dense(now) == expected
        assert {work(layer).precision for layer in was if layer.kind in _DENSE} == {"fp32"}
        assert {work(layer).precision for layer in now if layer.kind in _DENSE} == {"int8"}
        assert sum(work(layer).weight_bytes for layer in now) < sum(work(layer).weight_bytes for layer in was)

    def test_bytes_of_a_product(self, tmp_path: Path) -> None:
        _, layers = exported(nn.Linear(16, 8), torch.ones(4, 16), tmp_path / "a.onnx")
        (product,) = (work(layer) for layer in layers if layer.kind in _DENSE)
        assert (product.weight_bytes, product.read_bytes, product.written_bytes) == (4 * (128 + 8), 4 * 64, 4 * 32)
        assert product.intensity == pytest.approx(2 * 4 * 16 * 8 / product.bytes)

    def test_a_table_is_not_read_whole(self, tmp_path: Path) -> None:
        file, ids = tmp_path / "a.onnx", torch.zeros(2, 3, dtype=torch.int64)
        with quiet():
            torch.onnx.export(nn.Embedding(1000, 8), (ids,), file, input_names=["x"], dynamo=False)
        (found,) = (work(layer) for layer in ran(file, {"x": ids.numpy()}))
        assert (found.operations, found.weight_bytes, found.written_bytes) == (0, 2 * 3 * 8 * 4, 2 * 3 * 8 * 4)

    @given(st.data())
    def test_products_however_their_sides_lie(self, data: st.DataObject) -> None:
        batch, rows, inner, columns = (data.draw(st.integers(1, 6)) for _ in range(4))
        one = data.draw(st.sampled_from([(batch, rows, inner), (batch, inner, rows), (rows, batch, inner)]))
        other = data.draw(st.sampled_from([(batch, inner, columns), (batch, columns, inner), (inner, batch, columns)]))
        expected = 2 * batch * rows * inner * columns
        assert operations("FusedMatMul", [one, other], [(batch, rows, columns)]) == expected
        assert operations("MatMul", [(batch, rows, inner), (inner, columns)], [(batch, rows, columns)]) == expected
        assert operations("MatMul", [(rows, inner), (batch, inner, columns)], [(batch, rows, columns)]) == expected

    def test_one_operation_an_element_and_none_for_moves(self) -> None:
        assert operations("Relu", [(2, 3)], [(2, 3)]) == operations("QLinearSigmoid", [(2, 3)], [(2, 3)]) == 6
        assert operations("GlobalAveragePool", [(1, 8, 4, 4)], [(1, 8, 1, 1)]) == 128
        assert operations("QLinearConcat", [(2, 3)], [(4, 3)]) == operations("Transpose", [(2, 3)], [(3, 2)]) == 0

    def test_what_is_not_known_says_so(self) -> None:
        assert operations("Einsum", [(2, 3), (3, 4)], [(2, 4)]) is None
        assert operations("Conv", [(1, 3, 8, 8), None], [(1, 4, 8, 8)]) is None
