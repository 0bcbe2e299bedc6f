"""Made-up reviews of made-up films, whose words tell which are good, and a tokenizer of these words."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

GOOD, BAD = ["lovely", "great", "moving", "witty"], ["awful", "dull", "tired", "silly"]
FILLING = ["the", "film", "was", "a", "story", "of", "two", "and", "then", "it", "had", "some", "more", "to", "say"]
TINY = {"layers": 2, "heads": 2, "width": 32, "feed_forward": 64, "positions": 64, "max_length": 32}


def make(folder: Path, rows: int = 240, films: int = 24) -> dict[str, Any]:
    """Write `reviews.csv` and `tokenizer.json`; returns what `texts` wants to be called with for a tiny encoder."""
    draw = np.random.default_rng(0)
    table = []
    for row in range(rows):
        good = bool(row % 2)
        words = [*draw.choice(FILLING, draw.integers(1, 20)), *draw.choice(GOOD if good else BAD, 2)]
        table.append({"text": " ".join(draw.permutation(words)), "label": "good" if good else "bad",
                      "film": f"film {draw.integers(films)}"})  # fmt: skip
    with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "film"])
        writer.writeheader()
        writer.writerows(table)
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"])
    tokenizer.train_from_iterator([row["text"] for row in table], special)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {"table": str(folder / "reviews.csv"), "tokenizer": str(folder / "tokenizer.json")}
    return {**files, "labels": ["bad", "good"], "group": "film", **TINY}
