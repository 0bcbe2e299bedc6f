"""Golden samples: replayed on the real runtime, and every way in which an answer can be wrong."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample, check_samples, errors, read_sample, replay, write_sample
from headway.bundles.npz import write_npz
from headway.bundles.seal import Draft, seal
from headway.core.errors import BundleError, FormatError
from headway.core.tensors import Array
from headway.runtimes.onnx_runtime import OnnxRuntime

Seal = Callable[..., Bundle]


class Answers:
    """A session that computes the linear model, and then changes its answer."""

    def __init__(self, change: Callable[[Array], Mapping[str, Array]]) -> None:
        self.change = change

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        weights = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
        return dict(self.change(np.asarray(inputs["input"]) @ weights))


def test_onnx_runtime_gives_the_sealed_answers(seal_linear: Seal) -> None:
    bundle = seal_linear()
    variant = bundle.manifest.variant()
    session = OnnxRuntime().load(bundle.model_file(variant))
    found = replay(bundle, variant, session)
    session.close()
    assert found["logits"] <= 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: {"logits": y + 0.01}, r"differs from its golden output by 0\.01"),
        (lambda y: {"logits": np.where(y > 0, np.nan, y)}, "NaN"),
        (lambda y: {"logits": y + np.inf}, "differs from its golden output by inf"),
        (lambda y: {"logits": y[:, :2]}, "shape"),
        (lambda y: {"logits": y[:1]}, "shape"),
        (lambda y: {"scores": y}, "no output 'logits'"),
        (lambda y: {"logits": y.astype(str)}, "differs"),
    ],
)
def test_wrong_answers(seal_linear: Seal, change: Callable[[Array], Mapping[str, Array]], message: str) -> None:
    bundle = seal_linear()
    with pytest.raises(BundleError, match=message) as caught:
        replay(bundle, bundle.manifest.variant(), Answers(change))
    assert caught.value.where == "linear: fp32"


def test_an_output_without_a_tolerance_must_be_equal(seal_linear: Seal) -> None:
    bundle = seal_linear()
    strict = bundle.manifest.variant().model_copy(update={"tolerance": {}})
    with pytest.raises(BundleError, match="where 0 is allowed"):
        replay(bundle, strict, Answers(lambda y: {"logits": y + np.float32(1e-3)}))


def _with_own(bundle: Bundle, shift: float) -> Bundle:
    """The bundle of a variant that is far from the original, and whose own answers were `shift` apart from it."""
    sample = next(bundle.golden())
    own = {"fp32": {name: value + np.float32(shift) for name, value in sample.outputs.items()}}
    variant = bundle.manifest.variant().model_copy(update={"tolerance": {"logits": 10.0}})
    draft = Draft(
        name="own",
        version="1",
        inputs=bundle.manifest.inputs,
        outputs=bundle.manifest.outputs,
        variants=(variant.model_copy(update={"own_tolerance": {"logits": 1e-3}}),),
        chosen="fp32",
    )
    models = {"fp32": bundle.model_file(variant)}
    return seal(
        bundle.path.with_name("own"), draft, models=models, golden=[replace(sample, own=own)], report="<p>test</p>"
    )


def test_a_variant_is_held_to_its_own_answers_more_closely_than_to_the_originals(seal_linear: Seal) -> None:
    bundle = _with_own(seal_linear(), 2.0)
    variant = bundle.manifest.variant()
    assert replay(bundle, variant, Answers(lambda y: {"logits": y + np.float32(2)}))["logits"] == pytest.approx(2)
    with pytest.raises(BundleError, match="differs from its own sealed output by"):
        replay(bundle, variant, Answers(lambda y: {"logits": y + np.float32(2.1)}))
    with pytest.raises(BundleError, match="differs from its golden output by"):
        replay(bundle, variant, Answers(lambda y: {"logits": y + np.float32(20)}))


def test_own_answers_that_are_promised_must_be_there(seal_linear: Seal) -> None:
    bundle = seal_linear()
    promised = bundle.manifest.variant().model_copy(update={"own_tolerance": {"logits": 1.0}})
    with pytest.raises(BundleError, match="no own sealed output for logits"):
        replay(bundle, promised, Answers(lambda y: {"logits": y}))


def test_own_answers_survive_the_file(tmp_path: Path) -> None:
    one = np.ones((2, 3), np.float32)
    sample = Sample({"a": one}, {"b/c": one}, {"v.1": {"b/c": one + 1}, "v.2": {"b/c": one + 2}})
    write_sample(tmp_path / "x.npz", sample)
    read = read_sample(tmp_path / "x.npz")
    assert (read.own["v.1"]["b/c"] == 2).all()
    assert (read.own["v.2"]["b/c"] == 3).all()
    assert (read.outputs["b/c"] == 1).all()


def test_a_golden_file_that_is_damaged(seal_linear: Seal) -> None:
    bundle = seal_linear()
    (bundle.path / "golden/000.npz").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"cannot be read as a numpy \.npz"):
        list(bundle.golden())


arrays = hnp.arrays(np.float32, (2, 3), elements=st.floats(-1e6, 1e6, width=32))


@given(expected=arrays, got=arrays)
def test_the_error_is_the_largest_difference(expected: Array, got: Array) -> None:
    session = Answers(lambda _: {"logits": got})
    found = errors([Sample({"input": np.zeros((2, 4), np.float32)}, {"logits": expected})], session)
    assert found == {"logits": np.abs(got.astype(float) - expected.astype(float)).max()}


@pytest.mark.parametrize(
    ("expected", "got", "difference"),
    [
        (np.array([2**62], np.int64), np.array([2**62 + 1], np.int64), 1.0),
        (np.array([0], np.uint8), np.array([255], np.uint8), 255.0),
        (np.array([True]), np.array([False]), np.inf),
        (np.array(["a"], object), np.array([b"a"], object), 0.0),
        (np.array(["a"], object), np.array(["b"], object), np.inf),
        (np.array([np.inf], np.float32), np.array([np.inf], np.float32), 0.0),
        (np.array([np.inf], np.float32), np.array([-np.inf], np.float32), np.inf),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), 0.0),
        (np.array([6e4], np.float16), np.array([-6e4], np.float16), 120000.0),
    ],
)
def test_differences_by_datatype(expected: Array, got: Array, difference: float) -> None:
    sample = Sample({"input": np.zeros((1, 4), np.float32)}, {"y": expected})
    assert errors([sample], Answers(lambda _: {"y": got})) == {"y": difference}


def test_files_and_samples_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="holds NaN"):
        write_sample(tmp_path / "x.npz", Sample({"a": np.ones(1)}, {"b": np.array([np.nan])}))
    write_npz(tmp_path / "y.npz", {"a": np.ones(1)})
    with pytest.raises(FormatError, match="not a golden sample"):
        read_sample(tmp_path / "y.npz")
    with pytest.raises(BundleError, match="at least one"):
        check_samples([], ["a"], ["b"])
    with pytest.raises(BundleError, match="golden sample 0 has inputs"):
        check_samples([Sample({"a": np.ones(1)}, {"c": np.ones(1)})], ["a"], ["b"])
