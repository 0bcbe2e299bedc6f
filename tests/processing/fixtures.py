"""Pictures, tokenizers, and small models that are served with processing; all made here."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from headway.bundles.bundle import Bundle
from headway.shipping.pack import pack

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "A bundle proves itself wherever it is loaded.",
    "Éric's naïve café costs 3 €.",
)


def photo(height: int = 60, width: int = 80, *, seed: int = 0) -> np.ndarray:
    """[height, width, 3] UINT8: smooth with some noise, as photographs are."""
    draw = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(down / (5 + c) + across / (9 - c) + seed) for c in range(3)]
    return np.clip(np.stack(waves, axis=-1) + draw.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    """The file of a picture."""
    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, kind, **settings)
    return stream.getvalue()


def wordpiece(padding: bool = False) -> Tokenizer:
    """A small BERT-like tokenizer, the same at every call."""
    made = Tokenizer.from_str(_trained())
    if padding:
        made.enable_padding(direction="left", pad_id=1, pad_token="[UNK]", length=99)
    return made


@cache
def _trained() -> str:
    """Training breaks ties at random."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made.to_str()


def byte_bpe() -> Tokenizer:
    """A small tokenizer on bytes, without special tokens but one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    return made


# Models, and what is declared of them

PICTURE = """\
inputs:
  picture:
    - decode
    - resize: 40
    - crop: {height: 32, width: 32}
    - normalise: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    - layout: NCHW
    - feed: pixels
outputs:
  scores: [{take: logits}, softmax]
  label: [{take: logits}, argmax, labels]
"""
TEXT = """\
inputs:
  text:
    - tokenize: {file: tokenizer.json, max_length: 16}
    - feed: {input_ids: ids, attention_mask: mask}
outputs:
  scores: [{take: logits}, sigmoid]
"""
LABELS = ("red", "green", "blue")
WEIGHTS = np.random.default_rng(1).standard_normal((200, 3)).astype(np.float32)


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def colours(path: Path) -> Path:
    """The mean of each channel: `pixels` [batch, 3, 32, 32] -> `logits` [batch, 3]."""
    nodes = [helper.make_node("GlobalAveragePool", ["pixels"], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    return _save(helper.make_graph(nodes, "colours", [pixels], [logits]), path)


def words(path: Path) -> Path:
    """The sum of `WEIGHTS` over the tokens: `ids`, `mask` [batch, tokens] -> `logits` [batch, 3]."""
    nodes = [
        helper.make_node("Gather", ["weights", "ids"], ["each"]),
        helper.make_node("Cast", ["mask"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["column"]),
        helper.make_node("Mul", ["each", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["logits"], keepdims=0),
    ]
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("ids", "mask")]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    kept = {"weights": WEIGHTS, "last": np.array([2]), "tokens": np.array([1])}
    held = [numpy_helper.from_array(value, name) for name, value in kept.items()]
    return _save(helper.make_graph(nodes, "words", given, [logits], held), path)


def pack_pictures(folder: Path, declaration: str = PICTURE, *, name: str = "colours") -> Bundle:
    """A bundle of `colours` with this declaration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "p.yaml").write_text(declaration)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    model = colours(folder / "m.onnx")
    return pack(model, name=name, out=folder / "out", processing=folder / "p.yaml", labels=folder / "labels.txt").bundle


def pack_texts(folder: Path, declaration: str = TEXT, *, name: str = "words") -> Bundle:
    """A bundle of `words` with this declaration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "p.yaml").write_text(declaration)
    wordpiece().save(str(folder / "tokenizer.json"))
    model = words(folder / "m.onnx")
    return pack(model, name=name, out=folder / "out", processing=folder / "p.yaml").bundle


def scores_of(texts: Sequence[str]) -> np.ndarray:
    """What `words` answers to texts, by hand."""
    tokenizer = wordpiece()
    tokenizer.enable_truncation(16)
    logits = [WEIGHTS[tokenizer.encode(text).ids].sum(axis=0) for text in texts]
    return 1 / (1 + np.exp(-np.stack(logits)))


def colours_of(picture: np.ndarray) -> np.ndarray:
    """What `colours` answers to one picture, by hand and with Pillow: scores [3]."""
    height, width, _ = picture.shape
    size = (40, 40 * height // width) if width <= height else (40 * width // height, 40)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    top, left = round((small.shape[0] - 32) / 2), round((small.shape[1] - 32) / 2)
    crop = small[top : top + 32, left : left + 32]
    logits = ((crop / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).mean(axis=(0, 1))
    return np.exp(logits) / np.exp(logits).sum()
