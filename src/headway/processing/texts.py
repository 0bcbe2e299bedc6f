"""Texts: from UTF-8 to the token tensors that a model takes, by a `tokenizer.json` that the bundle carries."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from headway.core.errors import FormatError, RequestError
from headway.core.files import is_file
from headway.core.plugins import missing
from headway.core.tensors import DYNAMIC, Array
from headway.processing.stage import Flow, Kit, Stage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TENSORS = ("input_ids", "attention_mask", "token_type_ids")
_PAD_TOKENS = ("[PAD]", "<pad>")
_MOST_FILE_BYTES = 64 << 20


class Tokenize(Stage):
    """Turn texts into the tensors `input_ids`, `attention_mask` and `token_type_ids`, each [rows, tokens]."""

    name: ClassVar[str] = "tokenize"
    package: ClassVar[str] = "tokenizers"
    extra: ClassVar[str] = "text"
    file: str = Field(description="A `tokenizer.json` of the tokenizers library, in the declaration's folder.")
    max_length: int = Field(512, ge=1, le=1 << 16, description="Tokens of a text; what is longer is cut off.")
    pad: Literal["longest", "max_length"] = Field(
        "longest", description="Pad to the longest text of a request, or always to `max_length`."
    )
    pad_token: str | None = Field(
        None, description="Without it, the one that the file names, else `[PAD]` or `<pad>` where there is one."
    )
    datatype: Literal["INT64", "INT32"] = Field("INT64", description="Of every tensor.")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """Tensors [rows, tokens]."""
        given.require("encoded", "put it first")
        tokens = self.max_length if self.pad == "max_length" else DYNAMIC
        return Flow("tokens", self.datatype, (*given.shape, tokens))

    def open(self, kit: Kit) -> Callable[[Sequence[object]], dict[str, Array]]:
        """Texts to tensors by name. Raises `RequestError`, whose `where` is the row."""
        tokenizer = self._tokenizer(kit)
        most = kit.limits.max_text_bytes
        dtype = np.int64 if self.datatype == "INT64" else np.int32

        def tokenize(rows: Sequence[object]) -> dict[str, Array]:
            texts = [_text(row, number, most) for number, row in enumerate(rows)]
            found = tokenizer.encode_batch_fast(texts)  # unlike `encode`, it lets other threads run
            columns = zip(*((one.ids, one.attention_mask, one.type_ids) for one in found), strict=True)
            tensors = {name: np.array(column, dtype) for name, column in zip(TENSORS, columns, strict=True)}
            empty = ~tensors["attention_mask"].any(axis=1)
            if empty.any():
                raise RequestError("the text has no tokens", where=f"row {int(empty.argmax())}")
            return tensors

        return tokenize

    def _tokenizer(self, kit: Kit) -> "Tokenizer":
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise missing("tokenizers", needed_by="tokenize", extra=self.extra) from error
        path = kit.folder / self.file
        if not is_file(path):
            raise FormatError("no such file", where=str(path))
        if path.stat().st_size > _MOST_FILE_BYTES:
            raise FormatError(f"more than {_MOST_FILE_BYTES >> 20} MB are too much for a tokenizer", where=str(path))
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            reason = " ".join(str(error).split())[:200]
            raise FormatError(f"not a tokenizer.json: {reason}", where=str(path)) from error
        tokenizer.enable_truncation(self.max_length)
        self._pad(tokenizer, str(path))
        return tokenizer

    def _pad(self, tokenizer: "Tokenizer", where: str) -> None:
        own = tokenizer.padding or {}
        candidates = (self.pad_token,) if self.pad_token is not None else (own.get("pad_token"), *_PAD_TOKENS)
        token = next((t for t in candidates if t is not None and tokenizer.token_to_id(t) is not None), None)
        if token is None:
            raise FormatError(
                f"the vocabulary has no token {' or '.join(map(repr, filter(None, candidates)))} to pad with",
                where=where,
                remedy="Name one in the declaration: `pad_token: ...`.",
            )
        tokenizer.enable_padding(
            direction=own.get("direction", "right"),
            pad_id=tokenizer.token_to_id(token),
            pad_type_id=own.get("pad_type_id", 0),
            pad_token=token,
            length=self.max_length if self.pad == "max_length" else None,
        )


def _text(row: object, number: int, most: int) -> str:
    where = f"row {number}"
    try:
        data = row.encode() if isinstance(row, str) else row
        if not isinstance(data, bytes):
            raise RequestError(f"must be text, not {type(row).__name__}", where=where)
        if len(data) > most:
            raise RequestError(f"a text of {len(data):,} bytes; at most {most:,} are taken", where=where)
        return data.decode()
    except UnicodeError:
        raise RequestError("the text is not UTF-8", where=where) from None
