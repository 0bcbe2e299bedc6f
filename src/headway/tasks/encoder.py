"""A Transformer encoder of the BERT architecture with a classifier on top (Devlin et al. 2019, arXiv:1810.04805).

Its parts are called as in files of such weights, so that a pretrained encoder can be taken over. A text's vector is the
mean of its tokens', as in sentence encoders (Reimers and Gurevych 2019, arXiv:1908.10084).
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from headway.core.errors import WeightsError

_EPSILON = 1e-12  # of layer norms, as BERT was trained with
_DROPOUT = 0.1


class Embeddings(nn.Module):
    """The sum of a token's vector, its place's and its segment's, normalized. There is one segment."""

    def __init__(self, vocabulary: int, longest: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(longest, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, _EPSILON)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[N, tokens] -> [N, tokens, width]."""
        place = self.position_embeddings(torch.arange(input_ids.shape[1], device=input_ids.device))
        segment = self.token_type_embeddings(torch.zeros(1, dtype=torch.long, device=input_ids.device))
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + (place + segment)))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Attention of every token to every other one, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Tokens, [N, tokens, width], and what is added to their scores, [N, 1, 1, tokens] -> [N, tokens, width]."""
        shape = (x.shape[0], x.shape[1], self.heads, -1)
        query, key, value = (part(x).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        found = scaled_dot_product_attention(query, key, value, attn_mask=hidden)  # [N, heads, tokens, ...]
        return found.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """A linear layer, added to what stands beside it, normalized."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, out), nn.LayerNorm(out, _EPSILON)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        """[N, tokens, width] and [N, tokens, out] -> [N, tokens, out]."""
        return self.LayerNorm(self.dropout(self.dense(x)) + beside)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Self-attention and a feed-forward network."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width, heads), "output": Residual(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, feed_forward)})
        self.output = Residual(feed_forward, width)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """See `SelfAttention`; gives [N, tokens, width]."""
        x = self.attention["output"](self.attention["self"](x, hidden), x)
        return self.output(gelu(self.intermediate["dense"](x)), x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Token ids to the mean of their vectors.

    Args:
        vocabulary: tokens that the tokenizer knows.
        longest: places that have a vector; no text has more tokens.
        layers: of attention and feed-forward network.
        heads: of each attention; they divide `width`.
        width: of a token's vector.
        feed_forward: width within the feed-forward networks.
    """

    def __init__(self, vocabulary: int, longest: int, layers: int, heads: int, width: int, feed_forward: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocabulary, longest, width)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(width, heads, feed_forward) for _ in range(layers))})
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Ids, and 1 for tokens or 0 for padding, int64 [N, tokens] -> [N, width]."""
        x = self.embeddings(input_ids)
        weight = attention_mask.unsqueeze(-1).to(x.dtype)  # [N, tokens, 1]
        hidden = (1 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.encoder["layer"].children():
            x = layer(x, hidden)
        return torch.div((x * weight).sum(1), weight.sum(1))


class Classifier(nn.Module):
    """An encoder and one linear layer.

    Args:
        encoder: what gives a text's vector, [N, width].
        width: of that vector.
        classes: logits a row.
    """

    def __init__(self, encoder: Encoder, width: int, classes: int) -> None:
        super().__init__()
        self.bert = encoder
        self.dropout = nn.Dropout(_DROPOUT)
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[N, tokens] each -> logits, [N, classes]."""
        return self.classifier(self.dropout(self.bert(input_ids, attention_mask)))  # type: ignore[no-any-return]


def load_pretrained(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a safetensors file, as it was saved alone or within a model as `bert`.

    What the file has beside the encoder (a pooler, another task's head) is passed over.

    Raises:
        WeightsError: the file cannot be read, or a tensor of the encoder is missing in it or of another shape.
    """
    try:
        state = {name.removeprefix("bert."): value for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot be read as safetensors: {error}", where=str(path)) from error
    own = encoder.state_dict()
    for name, value in own.items():
        if name not in state or state[name].shape != value.shape:
            have = f"is {list(state[name].shape)} in the file" if name in state else "is missing"
            raise WeightsError(
                f"{name} {have}, and should be {list(value.shape)}",
                where=str(path),
                remedy="Give the task the sizes of the encoder that these weights were trained in.",
            )
    encoder.load_state_dict({name: state[name] for name in own})
