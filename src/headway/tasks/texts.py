"""Texts to classes, with a Transformer encoder: a table of texts, a tokenizer and, as a rule, pretrained weights."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError
from headway.core.plugins import missing
from headway.tasks.parts import Parts
from headway.tasks.task import Task
from headway.tasks.tokens import PADDING, VARYING, TokenRows

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

_LONGEST_FIELD = 1 << 24  # characters; the csv module stops at 2^17 by itself


def texts(
    table: str,
    tokenizer: str,
    labels: Sequence[str],
    *,
    weights: str | None = None,
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    max_length: int = 256,
    positions: int = 512,
    layers: int = 6,
    heads: int = 12,
    width: int = 384,
    feed_forward: int = 1536,
    fractions: Sequence[float] = (0.7, 0.04, 0.06, 0.2),
    most_rows: int | None = None,
    seed: int = 0,
) -> Task:
    """A table of texts and their classes, for an encoder of the BERT architecture.

    The sizes are MiniLM's by default (6 layers, 22.6M parameters: Wang et al. 2020, arXiv:2002.10957).

    Args:
        table: CSV file with a header, in UTF-8; rows whose label is not among `labels` are left out.
        tokenizer: a `tokenizer.json` of the tokenizers library.
        labels: the classes, in the order of the logits.
        weights: safetensors file of a pretrained encoder; None begins at random.
        text: the column of texts.
        label: the column of labels.
        group: a column whose values stay together in one part (the film of a review, the author of a letter): what the
            model has learned of them must not help it on test rows.
        max_length: tokens of a text; what is longer is cut.
        positions: places that have a vector, at least `max_length`; as in `weights`.
        layers: of the encoder; as in `weights`, like the next three.
        heads: of each attention.
        width: of a token's vector.
        feed_forward: width within the feed-forward networks.
        fractions: of the groups (else of the rows), for train, calibration, selection and test; they add up to 1.
        most_rows: use only so many rows, drawn at random; None uses all.
        seed: of the split.

    Returns:
        A task with the inputs "input_ids" and "attention_mask", int64 [N, tokens].

    Raises:
        DataError: a file is missing, or has no such column or no rows.
        MissingDependencyError: tokenizers is not installed.
    """
    if len(fractions) != 4 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"fractions must be four positive numbers that add up to 1, got {tuple(fractions)}")
    if max_length > positions:
        raise DataError(f"max_length {max_length} is more than the {positions} places that have a vector")
    found, classes, groups = _read(_file(table), text, label, group, tuple(labels))
    opened = _tokenizer(_file(tokenizer), max_length)
    ids = [one.ids for one in opened.encode_batch_fast(found)]

    def part(rows: NDArray[np.int64]) -> TokenRows:
        return TokenRows([ids[row] for row in rows], classes[rows])

    draw = np.random.default_rng(seed)
    kept = np.sort(draw.permutation(len(found))[:most_rows])
    sizes = (opened.get_vocab_size(), positions, layers, heads, width, feed_forward)
    return Task(
        parts=Parts(*(part(rows) for rows in _split(groups, kept, fractions, draw))),
        model=partial(_classifier, sizes, len(labels), _file(weights) if weights else None),
        labels=tuple(labels),
        varying=VARYING,
        padding=PADDING,
    )


def _file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError("no such file", where=str(path.absolute()))
    return path


def _read(
    path: Path, text: str, label: str, group: str | None, labels: tuple[str, ...]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Texts, their classes, [N], and the number of each one's group, [N]; a group of its own where none is asked."""
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for column in filter(None, (text, label, group)):
            if column not in (reader.fieldnames or ()):
                raise DataError(f"no column {column!r}; there are {reader.fieldnames}", where=str(path))
        rows = [row for row in reader if row[label] in labels and row[text] and row[text].strip()]
    if not rows:
        raise DataError(f"no row whose {label!r} is one of {list(labels)}", where=str(path))
    classes = np.array([labels.index(row[label]) for row in rows], np.int64)
    numbers = {name: number for number, name in enumerate(sorted({row[group] for row in rows}))} if group else {}
    groups = [numbers[row[group]] if group else place for place, row in enumerate(rows)]
    return [row[text] for row in rows], classes, np.array(groups, np.int64)


def _split(
    groups: NDArray[np.int64], kept: NDArray[np.int64], fractions: Sequence[float], draw: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The rows of each part: whole groups, shuffled once."""
    shuffled = draw.permutation(np.unique(groups[kept]))
    cuts = np.rint(np.cumsum(fractions)[:3] * len(shuffled)).astype(int)
    return [kept[np.isin(groups[kept], some)] for some in np.split(shuffled, cuts)]


def _tokenizer(path: Path, max_length: int) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise missing("tokenizers", needed_by="task texts", extra="text") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"not a tokenizer.json: {' '.join(str(error).split())[:200]}", where=str(path)) from error
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    return tokenizer


def _classifier(sizes: tuple[int, int, int, int, int, int], classes: int, weights: Path | None) -> "torch.nn.Module":
    from headway.tasks.encoder import Classifier, Encoder, load_pretrained

    encoder = Encoder(*sizes)
    if weights is not None:
        load_pretrained(encoder, weights)
    return Classifier(encoder, sizes[4], classes)
