"""The task on texts: what is read, how it is split, and batches of rows of any length."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tasks import films

from headway.core.errors import DataError, TaskError, WeightsError
from headway.tasks import Task
from headway.tasks.checks import check
from headway.tasks.factory import build_model
from headway.tasks.texts import texts
from headway.tasks.tokens import TokenRows

PARTS = ("train", "calibration", "selection", "test")


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    return films.make(tmp_path)


def test_the_task_stands_the_checks_and_splits_by_film(asked: dict[str, Any]) -> None:
    task = texts(**asked)
    check(task)
    with Path(asked["table"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(len(getattr(task.parts, part)) for part in PARTS) == len(rows)
    seen = {part: _films(getattr(task.parts, part), rows, asked) for part in PARTS}
    for one in PARTS:
        assert seen[one]
        assert not any(seen[one] & seen[other] for other in PARTS if other != one)


def _films(part: TokenRows, rows: list[dict[str, str]], asked: dict[str, Any]) -> set[str]:
    """Whose text is that of a row of `part`; texts are long enough that no two films share one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(asked["tokenizer"])
    film = {tuple(tokenizer.encode(row["text"]).ids): row["film"] for row in rows if len(row["text"].split()) > 5}
    own = [tuple(part.batch(np.array([row]))[0]["input_ids"][0].tolist()) for row in range(len(part))]
    return {film[ids] for ids in own if ids in film}


def test_a_row_alone_has_its_own_length_and_a_batch_the_longest(asked: dict[str, Any]) -> None:
    part = texts(**asked).parts.train
    assert isinstance(part, TokenRows)
    rows = np.array([3, 0, 5])
    inputs, targets = part.batch(rows)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (3, part.lengths[rows].max())
    for place, row in enumerate(rows):
        alone, target = part.batch(rows[place : place + 1])
        assert alone["input_ids"].shape == (1, part.lengths[row])
        assert alone["attention_mask"].all()
        assert target == targets[place]
        np.testing.assert_array_equal(inputs["input_ids"][place, : part.lengths[row]], alone["input_ids"][0])
        assert inputs["attention_mask"][place].sum() == part.lengths[row]


def test_padding_changes_no_answer(asked: dict[str, Any]) -> None:
    task = texts(**asked)
    model = build_model(task).eval()
    rows = np.arange(8)
    with torch.inference_mode():
        together = model(*map(torch.from_numpy, task.parts.train.batch(rows)[0].values()))
        alone = [model(*map(torch.from_numpy, task.parts.train.batch(rows[i : i + 1])[0].values())) for i in rows]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_weights_are_those_of_the_file_whatever_else_is_in_it(asked: dict[str, Any], tmp_path: Path) -> None:
    model = build_model(texts(**asked), seed=3)
    file = tmp_path / "pretrained.safetensors"
    state = {name.removeprefix("bert."): value for name, value in model.state_dict().items() if "bert." in name}
    save_file({**state, "pooler.dense.weight": torch.zeros(2, 2)}, file)
    task = texts(**asked, weights=str(file))
    taken = build_model(task, seed=4).state_dict()
    assert all(torch.equal(taken[f"bert.{name}"], value) for name, value in load_file(file).items() if name in state)
    with pytest.raises(WeightsError, match=r"layer\.2.*is missing"):
        build_model(texts(**{**asked, "layers": 3}, weights=str(file)))
    with pytest.raises(WeightsError, match=r"is \[64, 32\] in the file, and should be \[48, 32\]"):
        build_model(texts(**{**asked, "feed_forward": 48}, weights=str(file)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"table": "/nowhere.csv"}, "no such file"),
        ({"label": "stars"}, "no column 'stars'"),
        ({"labels": ["one", "two"]}, "no row whose 'label'"),
        ({"fractions": (0.5, 0.5, 0.5, 0.5)}, "add up to 1"),
        ({"max_length": 65}, "64 places"),
    ],
)
def test_what_is_wrong_is_named(asked: dict[str, Any], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        texts(**{**asked, **wrong})


def test_a_file_that_is_no_tokenizer_is_refused(asked: dict[str, Any]) -> None:
    Path(asked["tokenizer"]).write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        texts(**asked)


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(DataError, match="text 1 has no tokens"):
        TokenRows([[1], []], np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"varying": {"ids": {1: "tokens"}}}, "names 'ids'"),
        ({"varying": {"input_ids": {2: "tokens"}}}, "dimension 2 of 'input_ids'"),
        ({"varying": {"input_ids": {1: "batch"}}}, "called 'batch'"),
        ({"varying": {}}, "'attention_mask' is padded"),
    ],
)
def test_a_wrong_declaration_of_what_varies_is_refused(
    asked: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    whole = texts(**asked)
    first = {name: getattr(whole.parts, name) for name in PARTS}
    task = Task(**{**whole.__dict__, **change, "parts": type(whole.parts)(**first)})
    with pytest.raises((TaskError, DataError), match=message):
        check(task)
