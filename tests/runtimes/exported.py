"""Two real models as PyTorch exports them: a small convolutional net and a transformer encoder of any length."""

from pathlib import Path

import torch
from torch import nn

from headway.export.quiet import quiet


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


class Encoder(nn.Module):
    """As MiniLM is made, but small: embeddings, two layers with a mask, the mean of the tokens that count."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(100, width), nn.Embedding(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(8))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.heads = heads

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        rows, length = input_ids.shape
        x = self.words(input_ids) + self.places(torch.arange(length))
        hidden = (1.0 - attention_mask[:, None, None].float()) * -1e4
        for number, norm in enumerate(self.norms):
            q, k, v, o = (self.layers[4 * number + n] for n in range(4))
            cut = [p(x).reshape(rows, length, self.heads, -1).transpose(1, 2) for p in (q, k, v)]
            scores = cut[0] @ cut[1].transpose(2, 3) / cut[0].shape[-1] ** 0.5 + hidden
            x = norm(x + o((scores.softmax(-1) @ cut[2]).transpose(1, 2).reshape(rows, length, -1)))
        kept = attention_mask[:, :, None].float()
        return nn.functional.normalize((x * kept).sum(1) / kept.sum(1))


def conv(path: Path) -> Path:
    """`logits` [batch, 10] of `image` [batch, 1, 8, 8]."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Block(8), nn.MaxPool2d(2), Block(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    batch = torch.export.Dim("batch")
    return _export(path, net, {"image": torch.rand(2, 1, 8, 8)}, "logits", ({0: batch},))


def encoder(path: Path) -> Path:
    """`sentence` [batch, 32] of `input_ids` and `attention_mask`, both INT64 [batch, sequence]."""
    torch.manual_seed(0)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
    ids = torch.randint(0, 100, (2, 7))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return _export(path, Encoder(), given, "sentence", (dims, dims))


def _export(
    path: Path, model: nn.Module, given: dict[str, torch.Tensor], output: str, dims: tuple[dict[int, object], ...]
) -> Path:
    with quiet():
        program = torch.export.export(model.eval(), tuple(given.values()), dynamic_shapes=dims, strict=False)
        torch.onnx.export(
            program, f=str(path), dynamo=True, verbose=False, input_names=list(given), output_names=[output],
            external_data=False,
        )  # fmt: skip
    return path
