"""Which layers the processes of tensor parallel training share, found in an ordinary model or named by its owner.

A product that splits its outputs (column-wise) is followed by one that splits its inputs (row-wise), so that one
all-reduce does for both (Shoeybi et al. 2019, arXiv:1909.08053). What is not found here stays whole on every process.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from headway.core.errors import ConfigError
from headway.train.blocks import blocks

Style = Literal["colwise", "rowwise"]
WHERE = "train.parallel"
# What implementations call the number of heads, as their forward passes read it.
_HEADS = (
    "heads",
    "num_heads",
    "n_heads",
    "n_head",
    "nhead",
    "num_attention_heads",
    "num_key_value_heads",
    "n_kv_heads",
)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)  # over all of what lies before a layer


def plan(model: nn.Module, parts: int, asked: Mapping[str, Style] | None) -> dict[str, Style]:
    """The linear layers to share among `parts` processes, by name.

    Args:
        asked: patterns of names, in which `*` stands for one part or some of it; None looks for pairs of layers.

    Raises:
        ConfigError: there are none, one is not a linear layer of its own, or widths or heads do not divide.
    """
    found = _named(model, asked) if asked is not None else _find(model)
    if not found:
        raise ConfigError(
            "no two linear layers follow each other, as in a feed-forward network or attention, to be shared",
            where=WHERE,
            remedy="Name layers in train.parallel.plan, or set tensor to 1 and use shard.",
        )
    for name, style in found.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)  # noqa: S101  (both ways of finding take no other)
        width = layer.out_features if style == "colwise" else layer.in_features
        _divide(width, parts, f"{name}: its width {width}")
    for name, attribute, heads in attentions(model, found):
        _divide(heads, parts, f"{name}.{attribute}: {heads} heads")
    return found


def attentions(model: nn.Module, found: Mapping[str, Style]) -> list[tuple[str, str, int]]:
    """Modules that hold column-wise query, key and value: name, attribute that counts heads, and its value."""
    parents = Counter(name.rpartition(".")[0] for name, style in found.items() if style == "colwise")
    return [(name, *counted) for name, n in parents.items() if n > 2 for counted in _heads(model.get_submodule(name))]


def _heads(module: nn.Module) -> Iterator[tuple[str, int]]:
    return ((name, value) for name in _HEADS if type(value := getattr(module, name, None)) is int)


def _divide(number: int, parts: int, what: str) -> None:
    if number % parts:
        fitting = [str(n) for n in range(2, number + 1) if number % n == 0]
        raise ConfigError(
            f"{what} cannot be shared equally by tensor: {parts}",
            where=WHERE,
            remedy=f"Set tensor to 1{' or ' if fitting else ''}{', '.join(fitting[:6])}, or change the model.",
        )


def _named(model: nn.Module, asked: Mapping[str, Style]) -> dict[str, Style]:
    able = set(_linears(model))
    found: dict[str, Style] = {}
    for pattern, style in asked.items():
        names = [name for name, _ in model.named_modules() if _matches(name.split("."), pattern.split("."))]
        if not names:
            raise ConfigError(
                f"the model has no layer {pattern!r}",
                where=f"{WHERE}.plan",
                remedy=f"Its linear layers: {', '.join(sorted(able)[:12]) or 'none'}.",
            )
        if unable := [name for name in names if name not in able]:
            raise ConfigError(
                f"{unable[0]} is not a torch.nn.Linear of its own, and only those are shared",
                where=f"{WHERE}.plan",
                remedy=f"Let {pattern!r} name no embeddings, tied weights or wrapped layers.",
            )
        found |= dict.fromkeys(names, style)
    return found


def _matches(name: list[str], pattern: list[str]) -> bool:
    return len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))


def _find(model: nn.Module) -> dict[str, Style]:
    """Pairs within a block; `wide` are layers that read the same, and may be a pair's first half."""
    able, found = _linears(model), dict[str, Style]()
    names = {id(module): name for name, module in model.named_modules()}
    owners = [f"{names[id(block)]}." for block in blocks(model)]
    wide: list[str] = []
    for name, module in model.named_modules():
        if any(module.children()):
            continue
        if name not in able:
            if isinstance(module, _NORMS) or [*module.parameters(), *module.buffers()]:
                wide = []
            continue
        if wide and _owner(owners, wide[0]) != _owner(owners, name):
            wide = []
        if _closes(model, [able[first] for first in wide], able[name], wide):
            found |= {**dict.fromkeys(wide, "colwise"), name: "rowwise"}
            wide = []
        elif wide and _parent(wide[0]) == _parent(name) and able[wide[0]].in_features == able[name].in_features:
            wide.append(name)
        else:
            wide = [name]
    return found


def _closes(model: nn.Module, wide: list[nn.Linear], layer: nn.Linear, names: list[str]) -> bool:
    """Whether `layer` reads what attention or a feed-forward network has made of `wide`."""
    if not wide or wide[-1].out_features != layer.in_features:
        return False
    if len(wide) == 3:
        return any(_heads(model.get_submodule(_parent(names[0]))))
    # Two square layers in a row are more likely half of an attention than a feed-forward network.
    return len(wide) < 3 and all(layer.in_features == one.out_features != one.in_features for one in wide)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Plain linear layers that no other module shares a parameter with."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and all(uses[id(p)] == 1 for p in module.parameters())
    }


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _owner(owners: list[str], name: str) -> str | None:
    return next((owner for owner in owners if name.startswith(owner)), None)
