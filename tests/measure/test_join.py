"""Two profiles side by side: no operator is lost or counted twice, and layers find each other through a quantizer."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.measure.graphs import chain, dynamic, products, static

from headway.measure.join import condense, join, totals
from headway.measure.origin import stem
from headway.measure.profile import Layer, Profile, profile
from headway.runtimes.onnx_runtime import OnnxRuntime

KINDS = ["Conv", "QLinearConv", "MatMul", "Relu", "Add", "Cast", "QuantizeLinear", "Transpose"]


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Of unique names, with aliases that layers may share."""
    names = draw(st.lists(st.sampled_from([f"n{i}" for i in range(20)]), unique=True, max_size=12))
    layers = tuple(
        Layer(
            name=name,
            kind=draw(st.sampled_from(KINDS)),
            aliases=(name, *draw(st.lists(st.sampled_from(["p", "q", "r", "s"]), max_size=2))),
            ms=draw(st.floats(0, 5)),
        )
        for name in names
    )
    outside = draw(st.floats(0, 1))
    ms = sum(layer.ms for layer in layers) + outside
    return Profile(layers=layers, ms=ms, outside_ms=outside, recorded_ms=ms, taken_off_ms=0, rows=1, threads=1)


@given(profiles(), profiles())
def test_every_operator_stands_once(parent: Profile, child: Profile) -> None:
    rows = join(parent, child)
    assert Counter(row.parent.name for row in rows if row.parent) == Counter(it.name for it in parent.layers)
    assert [row.child.name for row in rows if row.child] == [it.name for it in child.layers]


@given(profiles(), profiles(), st.integers(0, 8))
def test_both_columns_add_up_to_both_runs(parent: Profile, child: Profile, most: int) -> None:
    lines = condense(parent, child, most)
    assert sum(line.parent_ms for line in lines) == pytest.approx(parent.ms)
    assert sum(line.child_ms for line in lines) == pytest.approx(child.ms)
    assert len(lines) <= most + 2
    assert sum(row[2] for row in totals(child)) == pytest.approx(child.ms)


@pytest.mark.parametrize("quantize", [static, dynamic])
def test_layers_find_each_other_through_a_quantizer(tmp_path: Path, quantize: type) -> None:
    parent = chain(tmp_path / "a.onnx", [4, 16, 16, 16])
    child = quantize(parent, tmp_path / "b.onnx")
    found = profile(OnnxRuntime(), {"a": parent, "b": child}, {"x": np.ones((1, 4, 16, 16), np.float32)}, seconds=0)
    rows = join(found["a"], found["b"])
    pairs = [(r.parent.aliases[0], r.child.kind) for r in rows if r.parent and r.child and r.parent.weights]
    kind = "QLinearConv" if quantize is static else "ConvInteger"
    assert pairs == [("conv0", kind), ("conv1", kind), ("conv2", kind)]
    assert {row.child.kind for row in rows if row.child and row.parent is None} & {"QuantizeLinear", "Cast"}


def test_layers_without_a_common_name_go_by_order(tmp_path: Path) -> None:
    parent = products(tmp_path / "a.onnx", [8, 8, 8])
    found = profile(OnnxRuntime(), {"a": parent}, {"x": np.ones((1, 8), np.float32)}, seconds=0)["a"]
    renamed = [it.model_copy(update={"aliases": (f"other{i}",)}) for i, it in enumerate(found.layers)]
    other = found.model_copy(update={"layers": tuple(renamed)})
    pairs = [(r.parent.name, r.child.name) for r in join(found, other) if r.parent and r.child]
    assert pairs == [("matmul0", "matmul0"), ("matmul1", "matmul1")]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("relu_1_nchwc", "relu_1"),
        ("node_Conv_128_token_4", "node_Conv_128"),
        ("getitem_DequantizeLinear/duplicated_token_1", "getitem"),
        ("model.0.weight_quantized", "model.0.weight"),
        ("val_1_codes", "val_1"),
        ("node_MatMul_75/MatMulScaleFusion/", "node_MatMul_75"),
        ("_nchwc", "_nchwc"),
        ("attn_q", "attn_q"),
    ],
)
def test_endings_that_tools_add_are_taken_off(name: str, short: str) -> None:
    assert stem(name) == short
