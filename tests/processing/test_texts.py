"""Tokens against the library's own answer one text at a time; and texts that mean harm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.processing.fixtures import SENTENCES, byte_bpe, wordpiece
from tokenizers import Tokenizer, decoders

from headway.core.errors import FormatError, RequestError
from headway.processing.stage import Flow, Kit, Limits
from headway.processing.texts import TENSORS, Tokenize

ROWS = [text.encode() for text in SENTENCES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizers")
    wordpiece().save(str(made / "wordpiece.json"))
    wordpiece(padding=True).save(str(made / "padding.json"))
    byte_bpe().save(str(made / "bytes.json"))
    return made


def tokens(folder: Path, rows: Any, file: str = "wordpiece.json", **fields: Any) -> dict[str, np.ndarray]:
    kit = Kit(folder=folder, limits=Limits(max_text_bytes=10_000))
    return Tokenize(file=file, **fields).open(kit)(rows)


@pytest.mark.parametrize("file", ["wordpiece.json", "bytes.json"])
def test_each_row_is_what_the_library_says_and_padded_to_the_longest(folder: Path, file: str) -> None:
    alone = [Tokenizer.from_file(str(folder / file)).encode(text) for text in SENTENCES]
    longest = max(len(one.ids) for one in alone)
    found = tokens(folder, ROWS, file)
    assert list(found) == list(TENSORS)
    for name, of in zip(TENSORS, ("ids", "attention_mask", "type_ids"), strict=True):
        expected = [getattr(one, of) + [0] * (longest - len(one.ids)) for one in alone]
        np.testing.assert_array_equal(found[name], np.array(expected, np.int64), strict=True)
    np.testing.assert_array_equal(tokens(folder, SENTENCES, file)["input_ids"], found["input_ids"])


def test_lengths(folder: Path) -> None:
    cut = tokens(folder, ROWS, max_length=5, datatype="INT32")
    assert cut["input_ids"].dtype == np.int32
    assert cut["input_ids"].shape == (3, 5)
    assert (cut["input_ids"][:, [0, 4]] == [2, 3]).all()  # [CLS] and [SEP] stay
    fixed = tokens(folder, ROWS[:1], max_length=40, pad="max_length")
    assert fixed["attention_mask"].shape == (1, 40)
    assert fixed["attention_mask"].sum() < 40


def test_the_files_own_padding_is_kept_but_for_its_length(folder: Path) -> None:
    found = tokens(folder, [b"fox", ROWS[0]], "padding.json")
    assert found["input_ids"].shape[1] < 99
    assert found["input_ids"][0, 0] == 1
    assert found["attention_mask"][0, 0] == 0
    named = tokens(folder, [b"fox", ROWS[0]], "padding.json", pad_token="[PAD]")
    assert named["input_ids"][0, 0] == 0


@given(st.lists(st.text(), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_bytes_come_back(folder: Path, texts: list[str]) -> None:
    """A tokenizer on bytes loses nothing: what is not padding decodes to the text."""
    rows = [("x" + text).encode("utf-8", "replace") for text in texts]
    found = tokens(folder, rows, "bytes.json")
    library = Tokenizer.from_file(str(folder / "bytes.json"))
    library.decoder = decoders.ByteLevel()
    for row, ids, mask in zip(rows, found["input_ids"], found["attention_mask"], strict=True):
        assert library.decode(ids[mask == 1].tolist(), skip_special_tokens=False).encode() == row


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"caf\xc3", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        ("\ud800", "not UTF-8"),
        (b"a" * 10_000_000, "a text of 10,000,000 bytes; at most 10,000 are taken"),
        ("é" * 5001, "a text of 10,002 bytes"),
    ],
)
def test_bad_texts_are_refused_by_their_row(folder: Path, row: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        tokens(folder, [ROWS[0], row])
    assert caught.value.where == "row 1"


def test_odd_texts_are_taken(folder: Path) -> None:
    for row in (b"", b"\x00", b"a\x00b", "\U0001f600\u202e\u0301".encode(), b" " * 9999, b"a" * 9999):
        assert tokens(folder, [row], max_length=8)["input_ids"].shape[1] <= 8
    with pytest.raises(RequestError, match="no tokens"):
        tokens(folder, [b"fox", b""], "bytes.json")


def test_flows() -> None:
    given_ = Flow("encoded")
    assert Tokenize(file="x").check(given_, Kit()) == Flow("tokens", "INT64", (-1, -1))
    made = Tokenize(file="x", max_length=9, pad="max_length", datatype="INT32").check(given_, Kit())
    assert made == Flow("tokens", "INT32", (-1, 9))
    with pytest.raises(ValueError, match="put it first"):
        Tokenize(file="x").check(made, Kit())


def test_files_that_are_no_tokenizers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "list.json").write_text("[]")
    (folder / "nothing.json").write_bytes(b"")
    for file in ("list.json", "nothing.json"):
        with pytest.raises(FormatError, match=r"not a tokenizer.json"):
            tokens(folder, ROWS, file)
    with pytest.raises(FormatError, match="no such file"):
        tokens(folder, ROWS, "none.json")
    with pytest.raises(FormatError, match=r"no token '<none>' to pad with"):
        tokens(folder, ROWS, pad_token="<none>")
    monkeypatch.setattr("headway.processing.texts._MOST_FILE_BYTES", 10)
    with pytest.raises(FormatError, match="too much for a tokenizer"):
        tokens(folder, ROWS)
