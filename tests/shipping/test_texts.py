"""A task whose inputs vary in length, from the recipe to a bundle that takes texts and is served ragged."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tasks import films

import headway
from headway.bundles.bundle import Bundle
from headway.shipping.ship import ship

pytestmark = pytest.mark.usefixtures("home")
RECIPE = """
name: films
task: {use: "headway.tasks.texts:texts", args: %s}
train: {epochs: 8, batch_size: 16, lr: 3.0e-3, threads: 1}
steps:
  - quantize: {mode: dynamic, least_weights: 0}
target: {keep_accuracy: 0.8, seconds: 0.1}
processing:
  inputs:
    text:
      - tokenize: {file: tokenizer.json, max_length: 32}
      - feed: {input_ids: input_ids, attention_mask: attention_mask}
  outputs:
    scores: [{take: logits}, softmax]
  samples: {text: samples.txt}
"""


def test_texts_are_shipped_and_answered(tmp_path: Path) -> None:
    asked = films.make(tmp_path, rows=400)
    (tmp_path / "films.yaml").write_text(RECIPE % json.dumps(asked))
    (tmp_path / "samples.txt").write_text("a lovely film\nthe story was dull and then some more awful\n")
    result = ship(tmp_path / "films.yaml", out=tmp_path / "out", register=False)
    assert result.verdict == "shipped", {id_: judged.gate for id_, judged in result.variants.items()}
    bundle = Bundle.open(tmp_path / "out")
    assert [spec.dims for spec in bundle.manifest.inputs] == [("batch", "tokens")] * 2
    assert bundle.manifest.padding == {"input_ids": 0, "attention_mask": 0}
    assert len({sample.inputs["input_ids"].shape for sample in bundle.golden()}) > 2
    with headway.load(bundle) as model:
        short, long = "lovely witty film", "awful and then it had some more to say of two tired story"
        together = model.predict({"text": [short, long]})["scores"]
        alone = np.concatenate([model.predict({"text": [text]})["scores"] for text in (short, long)])
        assert together.argmax(axis=1).tolist() == [1, 0]
        np.testing.assert_allclose(together, alone, atol=0.05)
