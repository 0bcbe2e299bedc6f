"""The module that several processes train: copies of it (DDP), or shards (FSDP2)."""

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from headway.train.traffic import Traffic
from headway.train.world import World


def spread(model: torch.nn.Module, world: World, compress: str) -> tuple[torch.nn.Module, Traffic | None]:
    """What stands for `model` in the forward pass, and what its gradients cost on the wire.

    The copies' gradients are averaged as the backward pass makes them. Batch norm normalises each process's share with
    its own statistics; the running ones are averaged by `World.settle`, so no buffers are broadcast.
    """
    if world.size == 1:
        return model, None
    assert world.mesh is not None  # noqa: S101  (of several processes there is one)
    group = world.mesh.get_group("data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name of `broadcast_buffers` is younger than our floor
        net = DistributedDataParallel(model, process_group=group, broadcast_buffers=False, gradient_as_bucket_view=True)
    traffic = Traffic(group, compress)
    net.register_comm_hook(None, traffic.hook)
    return net, traffic


def gradients(net: torch.nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Around a batch's forward and backward pass: only the `last` one of a step exchanges gradients."""
    if isinstance(net, DistributedDataParallel) and not last:
        return net.no_sync()
    return nullcontext()
