"""A model's repeated blocks: what FSDP2 gathers together, and what activation checkpointing computes anew."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from headway.core.errors import ConfigError

Kind = Literal["none", "full", "selective"]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the model's `Sequential`s and `ModuleList`s that have layers of their own, outermost first."""
    found: list[nn.Module] = []
    for module in model.children():
        if isinstance(model, nn.Sequential | nn.ModuleList) and any(module.children()) and not _list(module):
            if any(parameter.requires_grad for parameter in module.parameters()):
                found.append(module)
        else:
            found += blocks(module)
    return found


def _list(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) and any(any(child.children()) for child in module)


@contextmanager
def recomputed(model: nn.Module, kind: Kind) -> Iterator[None]:
    """Keep no activations inside the model's blocks, and compute them anew in the backward pass (Chen et al. 2016).

    Args:
        kind: "full" keeps none; "selective" keeps what products and convolutions return, which is dear to compute.

    Raises:
        ConfigError: the model has no repeated blocks.
    """
    found = blocks(model) if kind != "none" else []
    if kind != "none" and not found:
        raise ConfigError(
            "the model has no repeated blocks, whose activations could be computed anew",
            where="train.checkpoint_activations",
            remedy="Put its blocks into a torch.nn.Sequential or ModuleList, or set it to none.",
        )
    for block in found:
        contexts = partial(_contexts, block, kind)
        inner = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
        block.__dict__["forward"] = inner  # names and hooks stay as they are, which a wrapper would change
    try:
        yield
    finally:
        for block in found:
            del block.__dict__["forward"]


_Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
_DEAR: tuple[Callable[..., Any], ...] = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
)


def _contexts(block: nn.Module, kind: Kind) -> _Contexts:
    if kind == "full":
        return nullcontext(), _norms_at_rest(block)
    first, again = create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]
    return first, _both(_norms_at_rest(block), again)  # what keeps statistics is not watched


def _policy(context: object, operation: Callable[..., Any], *arguments: Any, **named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _DEAR else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _both(one: AbstractContextManager[Any], other: AbstractContextManager[Any]) -> Iterator[None]:
    with one, other:
        yield


@contextmanager
def _norms_at_rest(block: nn.Module) -> Iterator[None]:
    """Running statistics have taken the batch in already: computed anew, it must not count twice."""
    kept = [(value, value.clone()) for m in block.modules() if isinstance(m, _BatchNorm) for value in m.buffers()]
    try:
        yield
    finally:
        for value, before in kept:
            value.data.copy_(before)
