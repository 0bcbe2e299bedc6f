"""Pictures and tokenizers, made here."""

import io
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

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
    """A small BERT-like tokenizer."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    if padding:
        made.enable_padding(direction="left", pad_id=1, pad_token="[UNK]", length=99)
    return made


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
