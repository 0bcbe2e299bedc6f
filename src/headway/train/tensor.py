"""Tensor parallel training: layers whose weights are shared by the processes, each computing its part of every row."""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from headway.core.errors import ConfigError, TaskError
from headway.train.layers import WHERE, Style, attentions

_LEAST = 1e-3  # relative; what is summed in another order differs by some 1e-6, and what is wrong by about 1


def shared(
    model: nn.Module, mesh: DeviceMesh, styles: Mapping[str, Style], loss: Callable[[nn.Module], torch.Tensor]
) -> nn.Module:
    """A copy of `model` with its layers shared over `mesh`, which was seen to compute what `model` computes.

    Args:
        styles: of layers, by name; see `layers.plan`.
        loss: of a model, on rows that are the same in each process; always the same for the same model.

    Raises:
        ConfigError: loss or gradients come out otherwise, so something between two layers needs all of a row.
    """
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    parts = copy.deepcopy(model)
    for name, attribute, heads in attentions(model, styles):
        setattr(parts.get_submodule(name), attribute, heads // mesh.size())
    kinds = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    parallelize_module(parts, mesh, {name: kinds[style]() for name, style in styles.items()})
    expected = _gradients(model, loss)
    try:
        found = _gradients(parts, loss)
    except TaskError as failure:
        raise _refused(styles, f"the model fails with its layers shared: {failure}") from failure
    if not all(value.isfinite().all() for value in expected.values()):
        return parts  # the first step, on the same rows, tells why
    scale = max(float(value.norm()) for value in expected.values())
    far = [
        (found.get(name, torch.zeros_like(value)) - value).norm() / (value.norm() + _LEAST * scale)
        for name, value in expected.items()
    ]
    wrong = torch.stack(far).nan_to_num(math.inf)
    dist.all_reduce(wrong, op=dist.ReduceOp.MAX, group=mesh.get_group())  # one may see right what another does not
    for name, error in zip(expected, wrong.tolist(), strict=True):
        if error > _LEAST:
            raise _refused(styles, f"with its layers shared, the model computes another {name}")
    return parts


def gradient_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all together, where some lie on other processes, or on other meshes of them, than others do."""
    norms = [torch.nn.utils.get_total_norm(some) for some in _by_mesh(gradients)]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack([whole(norm) for norm in norms]))


def clip(parameters: list[nn.Parameter], limit: float, norm: torch.Tensor) -> None:
    """Scale gradients down to `limit`, given the `gradient_norm` of them all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    each = False if len(_by_mesh(gradients)) > 1 else None  # torch's joint kernels take tensors of one mesh alone
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=each)


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may lie in shards over the processes, on each of them."""
    found: torch.Tensor = getattr(value, "full_tensor", lambda: value)()
    return found


def local(value: torch.Tensor) -> torch.Tensor:
    """What lies in this process of a tensor that may lie in shards; the others need not ask for theirs."""
    found: torch.Tensor = getattr(value, "to_local", lambda: value)()
    return found


def _by_mesh(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    found: dict[object, list[torch.Tensor]] = {}
    for tensor in tensors:
        found.setdefault(getattr(tensor, "device_mesh", None), []).append(tensor)
    return list(found.values())


def _gradients(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> dict[str, torch.Tensor]:
    """The loss and every gradient, without dropout; the model is left as it was."""
    model.eval()
    value = loss(model)
    torch.autograd.backward(value)
    found = {f"gradient of {n}": whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    model.train()
    return {"loss": value.detach(), **found}


def _refused(styles: Mapping[str, Style], why: str) -> ConfigError:
    names = list(styles)
    return ConfigError(
        why,
        where=f"{WHERE}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''} are shared",
        remedy="Name fewer layers in train.parallel.plan, or set tensor to 1 and use shard.",
    )
