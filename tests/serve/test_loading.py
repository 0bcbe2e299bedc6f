"""From a bundle to a session that has proved itself, or an error that says why not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.manifest import Variant
from headway.bundles.seal import Draft, seal
from headway.core.errors import BundleError, ConfigError, FormatError, HeadwayError, TamperedError
from headway.core.tensors import TensorSpec
from headway.serve.loading import load_bundle, warm_up

SPEC = TensorSpec(name="input", datatype="FP32", shape=(-1, 2), dims=("batch", ""))
OUT = SPEC.model_copy(update={"name": "same"})
VARIANT = Variant(id="v", file="", format="onnx", runtime="onnxruntime", precision="fp32", tolerance={"same": 1e-6})
DRAFT = Draft(name="m", version="1", inputs=(SPEC,), outputs=(OUT,), variants=(VARIANT,), chosen="v")
VALUE = np.ones((2, 2), np.float32)


@pytest.fixture
def identity(tmp_path: Path, home: Path) -> Callable[..., Bundle]:
    """Seals a model that returns its input, under a draft and golden outputs that may lie."""

    def make(draft: Draft = DRAFT, golden: np.ndarray = VALUE, kind: int = TensorProto.FLOAT) -> Bundle:
        graph = helper.make_graph(
            [helper.make_node("Identity", ["input"], ["same"])],
            "g",
            [helper.make_tensor_value_info("input", kind, ["batch", 2])],
            [helper.make_tensor_value_info("same", kind, ["batch", 2])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / "m.onnx")
        sample = Sample({"input": VALUE}, {draft.outputs[0].name: golden})
        return seal(tmp_path / "bundle", draft, models={"v": tmp_path / "m.onnx"}, golden=[sample], report="<p></p>")

    return make


def test_a_sound_bundle_loads_and_warms_up(identity: Callable[..., Bundle]) -> None:
    loaded = load_bundle(identity())
    warm_up(loaded, (1, 32))
    assert loaded.variant.id == "v"
    assert loaded.session.run({"input": VALUE})["same"].tolist() == VALUE.tolist()
    loaded.session.close()


def test_a_bundle_that_is_sound_no_longer_does_not_load_from_the_copy_of_when_it_was(
    identity: Callable[..., Bundle],
) -> None:
    bundle = identity()
    load_bundle(bundle).session.close()
    with (bundle.path / "variants" / "v" / "m.onnx").open("ab") as model:
        model.write(b"x")
    with pytest.raises(TamperedError, match="were sealed"):
        load_bundle(bundle)


def test_it_is_loaded_from_a_folder_that_others_cannot_change(identity: Callable[..., Bundle], home: Path) -> None:
    bundle = identity()
    loaded = load_bundle(bundle)
    assert loaded.bundle.path.is_relative_to(home)
    assert loaded.bundle.digest == bundle.digest
    loaded.session.close()


def test_a_model_that_answers_otherwise_than_sealed_does_not_load(identity: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match="differs from its golden output by 1"):
        load_bundle(identity(golden=VALUE + 1))


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (replace(DRAFT, inputs=(SPEC.model_copy(update={"datatype": "FP64"}),)), "an input called 'input' is not so"),
        (replace(DRAFT, inputs=(SPEC.model_copy(update={"shape": (-1, 2, 2)}),)), "an input called 'input' is not so"),
        (replace(DRAFT, outputs=(OUT.model_copy(update={"name": "y"}),)), "an output called 'y' is not so"),
    ],
)
def test_a_manifest_that_does_not_fit_its_model_does_not_load(
    identity: Callable[..., Bundle], draft: Draft, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        load_bundle(identity(draft))


def test_a_runtime_that_nobody_offers_and_a_datatype_that_cannot_be_served(identity: Callable[..., Bundle]) -> None:
    other = replace(DRAFT, variants=(VARIANT.model_copy(update={"runtime": "onnxruntim"}),))
    with pytest.raises(ConfigError, match="did you mean 'onnxruntime'"):
        load_bundle(identity(other))
    with pytest.raises(FormatError, match="BF16 has no numpy dtype"):
        load_bundle(identity(kind=TensorProto.BFLOAT16))


def test_padding_that_holds_is_used_and_a_lie_is_logged_and_is_not(
    sealed: Callable[..., Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    """The sum of a row does not change by zeros."""
    loaded = load_bundle(sealed("lengths", padding={"input": 0}), choose_seconds=0)
    assert loaded.padding is not None
    loaded.session.close()
    assert not caplog.records
    lying = load_bundle(sealed("lengths", version="2", padding={"input": 0.5}), choose_seconds=0)
    assert lying.padding is None
    lying.session.close()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    fields = record.__dict__["fields"]
    assert fields["reason"] == "padding changes output 'total' by 0.5, where 1e-05 is allowed"


def test_warming_up_learns_how_long_runs_take(sealed: Callable[..., Bundle]) -> None:
    loaded = load_bundle(sealed("lengths", padding={"input": 0}), choose_seconds=0)
    warm_up(loaded, (1, 32))
    loaded.session.close()
    assert loaded.durations.known
    assert 0 < loaded.durations.of(64) < 1, "32 rows of 2 elements"


def test_a_name_that_is_neither_a_path_nor_registered(home: Path) -> None:
    with pytest.raises(HeadwayError):
        load_bundle("nothing-of-that-name")
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle("./nothing/there")
