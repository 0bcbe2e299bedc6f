"""A declaration is read strictly, checked from end to end, and every mistake is named where it stands."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from headway.core.config import Source, read_yaml, validate
from headway.core.errors import ConfigError
from headway.core.tensors import TensorSpec
from headway.processing.declaration import INPUT_STAGES, OUTPUT_STAGES, Processing, serve_specs
from headway.processing.outputs import Softmax, TopK
from headway.processing.pictures import Decode, Layout, Normalise, Resize
from headway.processing.stage import Kit

PICTURE = """\
inputs:
  image:
    - decode: RGB
    - resize: 256
    - crop: {height: 224, width: 224}
    - normalise: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    - layout: NCHW
    - feed: pixels
outputs:
  scores: [{take: logits}, softmax]
  best:
    - take: logits
    - top_k: {k: 2, give: indices}
    - labels
"""
TEXT = """\
inputs:
  text:
    - tokenize: {file: tokenizer.json, max_length: 128}
    - feed: {input_ids: ids, attention_mask: mask}
"""


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def kit(*specs: TensorSpec, labels: int = 3) -> Kit:
    """The model takes what is given, and answers logits of 3 classes."""
    outputs = {"logits": spec("logits", "FP32", -1, 3), "spare": spec("spare", "INT64", -1)}
    return Kit(inputs={s.name: s for s in specs}, outputs=outputs, labels=("a", "b", "c")[:labels])


PIXELS = kit(spec("pixels", "FP32", -1, 3, 224, 224))
IDS = kit(spec("ids", "INT64", -1, -1), spec("mask", "INT64", -1, -1))


def read(folder: Path, text: str) -> tuple[Processing, Source]:
    path = folder / "p.yaml"
    path.write_text(text)
    data, source = read_yaml(path)
    return validate(Processing, data, source), source


def specs(folder: Path, text: str, model: Kit) -> Any:
    processing, source = read(folder, text)
    return serve_specs(processing, model, source.place)


def test_it_is_read_and_said_in_one_form(tmp_path: Path) -> None:
    picture, _ = read(tmp_path, PICTURE)
    assert picture.inputs["image"][:2] == (Decode(mode="RGB"), Resize(shorter=256))
    assert picture.inputs["image"][4] == Layout(order="NCHW")
    assert picture.outputs["best"][1] == TopK(k=2, give="indices")
    said = picture.model_dump(mode="json")
    assert said["inputs"]["image"][0] == {"decode": {"mode": "RGB"}}
    assert said["outputs"]["scores"] == [{"take": {"output": "logits"}}, {"softmax": {}}]
    assert Processing.model_validate(said) == picture


class Manifest(BaseModel):
    """As the bundle's manifest has it: JSON that is read strictly."""

    processing: Processing | None = None


@given(
    st.lists(
        st.one_of(
            st.builds(Decode, mode=st.sampled_from(["RGB", "GREY"])),
            st.builds(Resize, shorter=st.integers(1, 9), antialias=st.booleans()),
            st.builds(Normalise, mean=st.lists(st.floats(-9, 9), min_size=1, max_size=3).map(tuple)),
        ),
        max_size=4,
    ),
    st.lists(st.one_of(st.builds(Softmax), st.builds(TopK, k=st.integers(1, 9))), max_size=3),
)
def test_the_manifest_gives_back_what_it_took(before: list[Any], after: list[Any]) -> None:
    given_ = Processing(inputs={"x": tuple(before)}, outputs={"y": tuple(after)})
    text = Manifest(processing=given_).model_dump_json()
    assert Manifest.model_validate_json(text, strict=True).processing == given_
    assert Processing.model_validate(json.loads(text)["processing"]) == given_


def test_every_stage_has_its_place_in_a_declaration() -> None:
    for kinds, where in ((INPUT_STAGES, "inputs"), (OUTPUT_STAGES, "outputs")):
        for kind in kinds:
            required = {"crop": {"height": 1, "width": 1}, "resize": 1, "layout": "NHWC", "top_k": 1, "tokenize": "x",
                        "take": "x"}  # fmt: skip
            found = Processing.model_validate({where: {"x": [{kind.name: required.get(kind.name)}]}})
            (((stage,),),) = [getattr(found, where).values()]
            assert type(stage) is kind


def test_what_clients_send_and_get(tmp_path: Path) -> None:
    inputs, outputs = specs(tmp_path, PICTURE, PIXELS)
    assert inputs == (spec("image", "BYTES", -1),)
    assert outputs == (spec("scores", "FP32", -1, 3), spec("best", "BYTES", -1, 2))
    inputs, outputs = specs(tmp_path, TEXT, IDS)
    assert inputs == (spec("text", "BYTES", -1),)
    assert [output.name for output in outputs] == ["logits", "spare"]


def test_what_is_not_fed_stays_the_clients(tmp_path: Path) -> None:
    model = kit(*IDS.inputs.values(), spec("types", "INT64", -1, -1))
    inputs, _ = specs(tmp_path, TEXT, model)
    assert [s.name for s in inputs] == ["text", "types"]


def test_the_rows_are_the_models(tmp_path: Path) -> None:
    inputs, _ = specs(tmp_path, PICTURE, kit(spec("pixels", "FP32", 1, 3, 224, 224)))
    assert inputs[0].shape == (1,)
    with pytest.raises(ConfigError, match="different numbers of rows"):
        specs(tmp_path, TEXT, kit(spec("ids", "INT64", -1, -1), spec("mask", "INT64", 1, -1)))


def test_pictures_of_any_size_fit_a_model_that_takes_any(tmp_path: Path) -> None:
    text = "inputs: {image: [decode, normalise, {feed: pixels}]}"
    assert specs(tmp_path, text, kit(spec("pixels", "FP32", -1, -1, -1, 3)))
    with pytest.raises(ConfigError, match="exact resize or a crop"):
        specs(tmp_path, text, kit(spec("pixels", "FP32", -1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("resize:", "reszie:", 4, "unknown stage 'reszie'; did you mean 'resize'?"),
        ("- labels", "- labels: {colour: 1}", 14, "unknown key 'colour'"),
        ("- labels", "- [labels]", 14, "must be one name with its settings"),
        ("- labels", "- {labels: {}, softmax: {}}", 14, "must be one name with its settings"),
        ("- labels", "- 7", 14, "must be one name with its settings"),
        ("- labels", "- decode", 14, "unknown stage 'decode'"),
        ("256", "{shortr: 256}", 4, "did you mean 'shorter'?"),
        ("256", "{shorter: big}", 4, "integer"),
        ("RGB", "CMYK", 3, "'RGB' or 'GREY'"),
        ("{height: 224, width: 224}", "{height: 224}", 5, "width: Field required"),
        ("[0.229, 0.224, 0.225]", "[0.229, 0, 0.225]", 6, "greater than"),
        ("[0.229, 0.224, 0.225]", "[0.229, 0.1]", 6, "normalise: 2 values of std"),
        ("    - resize: 256\n", "    - normalise\n", 5, "crop: takes decoded pictures, and gets a tensor"),
        ("256", "200", 5, "crop: cannot cut 224 x 224 where the shorter side is 200"),
        ("NCHW", "NHWC", 8, "feed: 'pixels' takes shape [-1, 3, 224, 224], and gets [-1, 224, 224, 3]"),
        ("    - layout: NCHW\n", "", 7, "and gets [-1, 224, 224, 3]"),
        ("    - feed: pixels\n", "", 2, "must end with feed"),
        ("    - decode: RGB\n", "", 3, "resize: takes decoded pictures, and gets bytes as they were sent"),
        ("feed: pixels", "feed: pixel", 8, "the model has no input 'pixel'; it has pixels"),
        ("feed: pixels", "feed: {input_ids: pixels}", 8, "must say which inputs take the tensor"),
        ("feed: pixels", "feed", 8, "must say which inputs take"),
        ("feed: pixels", "feed: pixels\n    - feed: pixels", 9, "feed: stands twice"),
        ("layout: NCHW", "layout: NCHW\n    - layout: NCHW", 8, "layout: stands twice"),
        ("- feed: pixels", "- feed: pixels\n    - normalise", 9, "normalise: stands twice"),
        ("image:", "pixels:", 2, "the model has an input 'pixels' itself"),
        ("image:", "../image:", 2, "pattern"),
        ("take: logits}, softmax", "take: logit}, softmax", 10, "the model has no output 'logit'"),
        ("[{take: logits}, softmax]", "[softmax]", 10, "softmax: takes a tensor, and gets nothing"),
        ("[{take: logits}, softmax]", "[]", 10, "must begin with take"),
        ("[{take: logits}, softmax]", "[{take: logits}, {take: logits}]", 10, "take: stands twice"),
        ("[{take: logits}, softmax]", "[{take: spare}, softmax]", 10, "softmax: takes numbers of shape"),
        ("scores:", "logits:", 10, "the model has an output 'logits' itself"),
        ("k: 2", "k: 4", 13, "top_k: the greatest 4 of 3 classes"),
        ("    - top_k: {k: 2, give: indices}\n", "", 13, "labels: takes indices"),
        ("give: indices", "give: labels", 13, "'values' or 'indices'"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in PICTURE
    with pytest.raises(ConfigError) as caught:
        specs(tmp_path, PICTURE.replace(old, new, 1), PIXELS)
    assert says in str(caught.value)
    assert f"p.yaml:{line}: " in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("feed: {input_ids: ids, attention_mask: mask}", "feed: ids", "must say which inputs take the tokens"),
        ("input_ids: ids", "input_ids: mask", "'mask' is to take two tensors"),
        ("tokenize:", "decode\n    - tokenize:", "tokenize: takes bytes as they were sent"),
        ("max_length: 128", "max_length: 0", "greater than"),
        ("{file: tokenizer.json, max_length: 128}", "{max_length: 128}", "file: Field required"),
    ],
)
def test_mistakes_with_texts(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        specs(tmp_path, TEXT.replace(old, new, 1), IDS)
    assert says in str(caught.value)


def test_a_model_of_fixed_length_wants_fixed_padding(tmp_path: Path) -> None:
    model = kit(spec("ids", "INT64", -1, 128), spec("mask", "INT64", -1, 128))
    with pytest.raises(ConfigError, match="set `pad: max_length`"):
        specs(tmp_path, TEXT, model)
    assert specs(tmp_path, TEXT.replace("128}", "128, pad: max_length}"), model)
    with pytest.raises(ConfigError, match="'ids' takes INT32, and gets INT64"):
        specs(tmp_path, TEXT, kit(spec("ids", "INT32", -1, -1), spec("mask", "INT64", -1, -1)))


def test_an_input_is_fed_once(tmp_path: Path) -> None:
    second = "  other: [{tokenize: x}, {feed: {token_type_ids: ids}}]\n"
    with pytest.raises(ConfigError, match=r"p.yaml:5: the model's input 'ids' is fed twice"):
        specs(tmp_path, TEXT + second, IDS)


def test_nothing_is_no_declaration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither inputs nor outputs"):
        read(tmp_path, "inputs: {}")


def test_an_output_may_be_given_as_it_is(tmp_path: Path) -> None:
    _, outputs = specs(tmp_path, "outputs: {logits: [{take: logits}]}", PIXELS)
    assert [output.name for output in outputs] == ["logits"]
