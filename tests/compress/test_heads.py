"""Attention heads: found however a module splits them, cut whole, and replayed into an untouched module."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from headway.compress.channels import Group, remove
from headway.compress.graph import find_groups
from headway.compress.prune import Prune, PruneConfig
from headway.compress.slices import Place, replay
from headway.compress.step import StepContext
from headway.core.errors import TaskError, WeightsError
from headway.export.onnx import OnnxExport
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.tasks import Arrays, Parts, Task

WIDTH, HEADS, TOKENS = 24, 4, 8
IDS = torch.randint(0, 50, (3, TOKENS), generator=torch.Generator().manual_seed(1))


class Apart(nn.Module):
    """Queries, keys and values of their own layers; heads and their width are written down, as BERT does."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size, self.all = HEADS, WIDTH // HEADS, WIDTH
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        attention = (q @ k.transpose(-1, -2) / self.size**0.5).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], self.all))


class Divided(Apart):
    """The width of a head is what the whole width comes to."""

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.all // self.heads).transpose(1, 2)


class Free(Apart):
    """The number of heads follows from the layer."""

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Stacked(nn.Module):
    """One layer makes queries, keys and values, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = HEADS, WIDTH // HEADS
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stacked = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.heads, self.size)
        q, k, v = stacked.permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Torchs(nn.Module):
    """Torch's own module, which ties the heads' width to the number of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Layer(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.attention = attention()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, WIDTH), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.layers = nn.Sequential(Layer(attention), Layer(attention))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.words(ids) + self.places)[:, 0])


ATTENTIONS = (Apart, Divided, Free, Stacked)


def make(attention: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return Encoder(attention).eval()


def forward(model: nn.Module) -> tuple[torch.Tensor, ...]:
    return (model(IDS),)


def heads(model: nn.Module) -> list[Group]:
    return [group for group in find_groups(model, forward) if group.heads]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_head_that_is_cut_is_a_head_whose_outputs_are_zero(attention: type[nn.Module]) -> None:
    model, masked = make(attention), make(attention)
    found = heads(model)
    assert len(found) == 2
    assert {group.channels for group in found} == {HEADS}
    size = WIDTH // HEADS
    with torch.no_grad():
        for layer in masked.layers:
            layer.attention.out.weight[:, size : 2 * size] = 0
            layer.attention.out.weight[:, 3 * size :] = 0
    for group in found:
        remove(model, group, np.array([1, 3]))
    torch.testing.assert_close(model(IDS), masked(IDS))
    assert model.layers[0].attention.out.in_features == 2 * size
    assert {group.channels for group in heads(model)} == {2}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_heads_and_feed_forward_widths_are_replayed_into_the_untouched_factory(
    attention: type[nn.Module], context: StepContext
) -> None:
    model = make(attention)
    before = sum(parameter.numel() for parameter in model.parameters())
    config = PruneConfig(keep=0.5, every=0.25, align=1, importance="taylor", finetune_epochs=1)
    model, record = Prune(config).apply(model, replace(context, task=texts(attention)))
    left = [group.channels for group in heads(model)]
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.5 * before, rel=0.1)
    assert left != [HEADS, HEADS]
    rebuilt = Prune(config).replay(make(attention), json.loads(json.dumps(record)))
    assert str(rebuilt) == str(model)
    rebuilt.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(IDS), model(IDS))
    resumed, again = Prune(config).apply(make(attention), replace(context, task=texts(attention)))
    assert again == record
    with torch.no_grad():
        assert torch.equal(resumed(IDS), model(IDS))


def texts(attention: type[nn.Module]) -> Task:
    """Whether the first token is below 25."""
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 50, (256, TOKENS))
    part = Arrays({"ids": ids}, (ids[:, 0] < 25).astype(np.int64))
    return Task(parts=Parts(part, part, part, part), model=lambda: make(attention))


def test_a_network_without_some_of_its_heads_is_exported_and_answers_the_same(context: StepContext) -> None:
    model, file = make(Apart), context.folder / "model.onnx"
    context.folder.mkdir()
    remove(model, heads(model)[0], np.array([0, 2]))
    OnnxExport().write(model, {"ids": IDS[:2].numpy()}, ("logits",), file)
    session = OnnxRuntime().load(file)
    (logits,) = session.run({session.inputs[0].name: IDS.numpy()}).values()
    session.close()
    np.testing.assert_allclose(logits, model(IDS).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_heads_of_torch_s_own_module_stay_and_the_widths_beside_it_may_go() -> None:
    found = find_groups(make(Torchs), forward)
    assert {group.name for group in found} == {"layers.0.up", "layers.1.up"}
    alone = nn.Sequential(nn.Embedding(50, WIDTH), Torchs(), nn.Linear(WIDTH, 3)).eval()
    with pytest.raises(TaskError, match=r"(?s)no layer of the model can be pruned.*nn\.MultiheadAttention"):
        find_groups(alone, forward)


def test_counts_of_another_model_are_refused() -> None:
    count = {"module": "layers.0.attention", "attribute": "heads", "value": 2}
    assert replay(make(Apart), [], [count]).layers[0].attention.heads == 2
    for wrong, message in (
        ({"module": "layers.7"}, "no such layer"),
        ({"attribute": "forward"}, "forward is to be 2 and is None"),
        ({"attribute": "training"}, "training is to be 2 and is False"),
        ({"value": 5}, "heads is to be 5 and is 4"),
    ):
        with pytest.raises(WeightsError, match=message):
            replay(make(Apart), [], [count | wrong])


def test_heads_are_cut_as_channels_of_every_side() -> None:
    model = make(Stacked)
    group = heads(model)[0]
    kept = remove(model, group, np.array([1]))
    size = WIDTH // HEADS
    stay = [c for c in range(WIDTH) if c // size != 1]
    name = group.name.rpartition(".")[0]
    assert kept[Place(f"{name}.out", "in")] == stay
    assert kept[Place(f"{name}.qkv", "out")] == [c + part * WIDTH for part in range(3) for c in stay]
