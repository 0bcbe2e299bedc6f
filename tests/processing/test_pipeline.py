"""All stages of a declaration together, from what a client sends to the model's tensors and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.processing.fixtures import encoded, photo, wordpiece

from headway.core.errors import RequestError
from headway.core.tensors import TensorSpec
from headway.processing.declaration import Processing
from headway.processing.pipeline import Pipeline
from headway.processing.stage import Kit

INPUTS = {
    "pixels": TensorSpec(name="pixels", datatype="FP32", shape=(-1, -1, -1, 3)),
    "raw": TensorSpec(name="raw", datatype="UINT8", shape=(-1, 8, 9, 1)),
    "ids": TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
    "extra": TensorSpec(name="extra", datatype="FP32", shape=(-1, 2)),
}
OUTPUTS = {"logits": TensorSpec(name="logits", datatype="FP32", shape=(-1, 3))}
DECLARED = {
    "inputs": {
        "photo": ["decode", "normalise", {"feed": "pixels"}],
        "scan": [{"decode": "GREY"}, {"resize": {"height": 8, "width": 9}}, {"feed": "raw"}],
        "text": [{"tokenize": "tokenizer.json"}, {"feed": {"input_ids": "ids"}}],
    },
    "outputs": {"best": [{"take": "logits"}, "argmax", "labels"], "logits": [{"take": "logits"}]},
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder: Path = tmp_path_factory.mktemp("pipeline")
    wordpiece().save(str(folder / "tokenizer.json"))
    kit = Kit(INPUTS, OUTPUTS, ("a", "b", "c"), folder)
    return Pipeline(Processing.model_validate(DECLARED), kit, str)


def rows(*values: Any) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def test_every_input_by_its_own_stages(pipeline: Pipeline) -> None:
    assert [spec.name for spec in pipeline.inputs] == ["photo", "scan", "text", "extra"]
    extra = np.ones((2, 2), np.float32)
    sent = {"photo": rows(*[encoded(photo(8, 6))] * 2), "text": rows(b"the fox", b"a dog"), "extra": extra}
    found = pipeline.before({**sent, "scan": rows(*[encoded(photo())] * 2)})
    assert {name: (value.dtype.name, value.shape) for name, value in found.items()} == {
        "pixels": ("float32", (2, 8, 6, 3)),
        "raw": ("uint8", (2, 8, 9, 1)),
        "ids": ("int64", (2, found["ids"].shape[1])),
        "extra": ("float32", (2, 2)),
    }
    assert found["extra"] is extra
    assert all(value.flags.c_contiguous for value in found.values())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_rows_do_not_touch_each_other(pipeline: Pipeline, seeds: list[int]) -> None:
    """What a row becomes does not depend on its neighbours."""
    files = {seed: encoded(photo(20, 30, seed=seed)) for seed in seeds}
    together = pipeline.before({"scan": rows(*[files[seed] for seed in seeds])})["raw"]
    for seed, row in zip(seeds, together, strict=True):
        np.testing.assert_array_equal(row, pipeline.before({"scan": rows(files[seed])})["raw"][0])


def test_pictures_of_several_sizes_make_no_batch(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match=r"it becomes \[9, 6, 3\], where row 0 becomes \[8, 6, 3\]") as caught:
        pipeline.before({"photo": rows(encoded(photo(8, 6)), encoded(photo(9, 6)))})
    assert caught.value.where == "input 'photo', row 1"


def test_it_stops_between_rows_where_nobody_waits(pipeline: Pipeline) -> None:
    asked = []

    def abandoned() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(RequestError, match="nobody waits"):
        pipeline.before({"scan": rows(*[encoded(photo())] * 9)}, abandoned)
    assert len(asked) == 3


def test_outputs(pipeline: Pipeline) -> None:
    logits = np.array([[0, 2, 1], [5, 5, 1]], np.float32)
    found = pipeline.after({"logits": logits}, ["best", "logits"])
    assert found["best"].tolist() == [b"b", b"a"]
    assert found["logits"] is logits
    assert pipeline.gives(["best"])
    assert not pipeline.gives([])


@pytest.mark.parametrize("value", [np.zeros(0, object), np.zeros((1, 1), object), np.zeros(3), np.array(b"x", object)])
def test_what_is_no_row_of_bytes(pipeline: Pipeline, value: np.ndarray) -> None:
    with pytest.raises(RequestError, match="must be BYTES of shape"):
        pipeline.before({"scan": value})


def test_tolerances_are_steps_of_8_bits(pipeline: Pipeline) -> None:
    assert pipeline.tolerance == {"photo": pytest.approx(2.5 / 255), "scan": 2.5, "text": 0}
