"""Profiles of real graphs: they add up, speak of every operator once, and leave nothing behind."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tests.measure.graphs import chain, products, save, static

from headway.core.errors import UsageError
from headway.measure.profile import profile, taken_off
from headway.runtimes.onnx_runtime import OnnxRuntime


class TestTakenOff:
    @given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(0, 50))
    def test_what_is_left_adds_up_to_the_run_or_is_all_there_was(self, raw: list[float], ms: float) -> None:
        times = np.array(raw)
        off = taken_off(times, ms)
        assert off >= 0
        left = np.maximum(times - off, 0).sum()
        assert left == pytest.approx(min(ms, times.sum()), abs=1e-9)


def test_operators_and_what_is_outside_add_up_to_the_run(tmp_path: Path) -> None:
    parent = chain(tmp_path / "a.onnx", [4, 8, 8])
    child = static(parent, tmp_path / "b.onnx")
    found = profile(OnnxRuntime(), {"a": parent, "b": child}, {"x": np.ones((3, 4, 16, 16), np.float32)}, seconds=0)
    assert list(found) == ["a", "b"]
    for one in found.values():
        assert one.rows == 3
        assert one.taken_off_ms >= 0
        assert all(layer.ms >= 0 for layer in one.layers)
        assert sum(layer.ms for layer in one.layers) + one.outside_ms == pytest.approx(one.ms)
        assert len({layer.name for layer in one.layers}) == len(one.layers)
    assert [layer.kind for layer in found["b"].layers].count("QLinearConv") == 2


def test_layers_know_where_they_come_from(tmp_path: Path) -> None:
    file = chain(tmp_path / "a.onnx", [16, 32, 48])
    (found,) = profile(OnnxRuntime(), {"a": file}, {"x": np.ones((1, 16, 16, 16), np.float32)}, seconds=0).values()
    layers = {layer.aliases[0]: layer for layer in found.layers if layer.weights}
    assert {name: layer.weights for name, layer in layers.items()} == {
        "conv0": (32, 16, 3, 3),
        "conv1": (48, 32, 3, 3),
    }


def test_nodes_without_names_are_told_apart(tmp_path: Path) -> None:
    kinds = ["Softplus", "Tanh", "Softplus", "Tanh"]
    nodes = [helper.make_node(kind, [f"t{i}"], [f"t{i + 1}"]) for i, kind in enumerate(kinds)]
    nodes[0].input[0] = "x"
    file = save(tmp_path / "a.onnx", nodes, [], ("x", [64]), ("t4", [64]), np.float32)
    (found,) = profile(OnnxRuntime(), {"a": file}, {"x": np.ones((1, 64), np.float32)}, seconds=0).values()
    assert [layer.kind for layer in found.layers] == kinds
    assert len({layer.name for layer in found.layers}) == 4


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    file = products(tmp_path / "a.onnx", [4, 4])
    profile(OnnxRuntime(), {"a": file}, {"x": np.ones((1, 4), np.float32)}, seconds=0)
    recorded = OnnxRuntime().profile(file)
    assert list((tmp_path / "temporary").iterdir())
    recorded.close()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_runtime_that_cannot_profile_says_so(tmp_path: Path) -> None:
    class Plain:
        name = "plain"
        formats = frozenset({"onnx"})
        available, load = OnnxRuntime.available, OnnxRuntime.load

    with pytest.raises(UsageError, match="plain cannot say what each operator takes"):
        profile(Plain(), {}, {})  # type: ignore[arg-type]
