"""Layers that can be shared are found, and what cannot be shared is refused with what to change."""

from collections.abc import Callable

import pytest
from tests.train.tiny import blocks, sentences
from torch import Tensor, nn

from headway.core.errors import ConfigError
from headway.train.layers import Style, attentions, plan


class Attention(nn.Module):
    """With fewer heads of keys and values than of queries, if asked."""

    def __init__(self, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads = heads, kv_heads
        self.q = nn.Linear(32, 32)
        self.k, self.v = nn.Linear(32, 32 // heads * kv_heads), nn.Linear(32, 32 // heads * kv_heads)
        self.softmax, self.drop = nn.Softmax(-1), nn.Dropout()
        self.out = nn.Linear(32 // heads * kv_heads, 32)


class Gated(nn.Module):
    """As in Llama: one of two layers scales the other."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 8)


class Tied(nn.Module):
    """Word vectors that are the logits' weights too."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.wide, self.logits = nn.Embedding(20, 8), nn.Linear(4, 8), nn.Linear(8, 20)
        self.logits.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.wide(x))  # type: ignore[no-any-return]


def _transformer() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 32, batch_first=True), 2, enable_nested_tensor=False)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (Gated, {"gate": "colwise", "up": "colwise", "down": "rowwise"}),
        (lambda: Attention(4, 4), {"q": "colwise", "k": "colwise", "v": "colwise", "out": "rowwise"}),
        (_transformer, {f"layers.{i}.linear{n}": s for i in (0, 1) for n, s in ((1, "colwise"), (2, "rowwise"))}),
        (
            lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 2)),
            {"0": "colwise", "2": "rowwise"},
        ),
    ],
)
def test_pairs_are_found(model: Callable[[], nn.Module], found: dict[str, Style]) -> None:
    assert plan(model(), 2, None) == found


def test_our_encoder_is_shared_but_for_its_vectors_norms_and_head() -> None:
    model = sentences().model()
    found = plan(model, 2, None)
    whole = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - found.keys()
    assert whole == {"classifier"}
    assert attentions(model, found) == [(f"bert.encoder.layer.{i}.attention.self", "heads", 4) for i in (0, 1)]


def test_pairs_do_not_cross_blocks_or_norms() -> None:
    task = blocks()
    assert set(plan(task.model(), 3, None)) == {f"1.{i}.{name}" for i in range(3) for name in ("wide", "narrow")}


@pytest.mark.parametrize(
    ("model", "parts", "asked", "says", "remedy"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 4)), 2, None, "0: its width 9", "1 or 3, 9"),
        (lambda: Attention(6, 6), 4, None, "width 30|width 32|num_heads: 6 heads", "tensor to 1 or"),
        (lambda: Attention(4, 1), 2, {"[qkv]": "colwise"}, "num_key_value_heads: 1 heads", "change the model"),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4)), 2, None, "no two", "plan"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), 2, None, "no two linear layers", "use shard"),
        (Tied, 2, None, "no two linear layers", "use shard"),
        (Tied, 2, {"logits": "colwise"}, "logits is not a torch.nn.Linear of its own", "tied weights"),
        (Tied, 2, {"words": "colwise"}, "words is not a torch.nn.Linear of its own", "embeddings"),
        (Tied, 2, {"wid": "colwise"}, "no layer 'wid'", "Its linear layers: wide"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    model: Callable[[], nn.Module], parts: int, asked: dict[str, Style] | None, says: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        plan(model(), parts, asked)
    assert remedy in str(caught.value.remedy)
