"""The module that several processes train: copies of it (DDP), shards (FSDP2), shared layers, or a mix of them."""

import copy
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from headway.tasks import Task
from headway.train import layers
from headway.train.blocks import blocks
from headway.train.config import TrainConfig
from headway.train.loader import read
from headway.train.objective import Objective
from headway.train.plan import Plan
from headway.train.precision import Precision
from headway.train.tensor import shared
from headway.train.traffic import Traffic
from headway.train.world import World

_TRIED = 8  # rows on which shared layers are held against whole ones


def divided(model: nn.Module, task: Task, plan: Plan, world: World, precision: Precision) -> nn.Module:
    """What is trained in the place of `model`: itself, or a copy whose parameters are spread over the processes.

    Raises:
        ConfigError: `train.parallel` shares layers that cannot be shared.
    """
    if world.tensor > 1:
        assert world.mesh is not None  # noqa: S101  (of several processes there is one)
        model = _shared(model, task, plan, world.mesh["tensor"], precision)
    return _sharded(model, world, precision) if world.shards > 1 or world.tensor not in (1, world.size) else model


def told(model: nn.Module, world: World) -> str:
    """How much of a model the processes of tensor parallel training share, for the user."""
    meshes = [(p.numel(), getattr(p, "device_mesh", None)) for p in model.parameters()]
    spread = sum(size for size, mesh in meshes if mesh is not None and "tensor" in (mesh.mesh_dim_names or ()))
    part = spread / sum(size for size, _ in meshes)
    return f"tensor: {world.tensor} processes share {part:.0%} of the weights; each holds the others whole"


def _shared(model: nn.Module, task: Task, plan: Plan, mesh: DeviceMesh, precision: Precision) -> nn.Module:
    """Each layer over the processes of `mesh`, tried on the first rows."""
    rows = plan.batches(0)[0][:_TRIED]
    inputs, targets = read(task.parts.train, rows)
    batch = {name: torch.from_numpy(value) for name, value in inputs.items()}, torch.from_numpy(targets)
    fp32 = replace(precision, name="fp32")
    return shared(
        model,
        mesh,
        layers.plan(model, mesh.size(), plan.config.parallel.plan),
        lambda one: Objective(task, one, fp32, channels_last=False)(*batch),
    )


def _sharded(model: nn.Module, world: World, precision: Precision) -> nn.Module:
    """A copy whose parameters lie in shards over the processes.

    Each block is gathered when its turn comes, in bf16 where that is computed in, and gradients are averaged in fp32
    (Zhao et al. 2023). With fewer shards than processes, each shard has copies (HSDP).
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    assert world.mesh is not None  # noqa: S101  (of several processes there is one)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision.name)
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
    mesh = world.mesh["shard"] if world.mesh["data"].size() == 1 else world.mesh["data", "shard"]
    shards = copy.deepcopy(model)
    for module in (*blocks(shards), shards):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return shards


def gather(shards: nn.Module, model: nn.Module) -> None:
    """Fill `model` with the weights of its sharded copy; on every process."""
    if shards is model:
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    model.load_state_dict(get_model_state_dict(shards, options=StateDictOptions(full_state_dict=True)))


def copied(model: nn.Module, world: World, config: TrainConfig) -> tuple[nn.Module, Traffic | None]:
    """What stands for `model` in the forward pass, and what its gradients cost on the wire.

    The copies' gradients are averaged as the backward pass makes them. Batch norm normalises each process's share with
    its own statistics; the running ones are averaged by `World.settle`, so no buffers are broadcast.
    """
    if world.size == 1 or world.shards > 1 or world.tensor > 1:
        return model, None
    assert world.mesh is not None  # noqa: S101  (of several processes there is one)
    group = world.mesh.get_group("data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name of `broadcast_buffers` is younger than our floor
        net = DistributedDataParallel(model, process_group=group, broadcast_buffers=False, gradient_as_bucket_view=True)
    traffic = Traffic(group, config.compress)
    net.register_comm_hook(None, traffic.hook)
    return net, traffic


def gradients(net: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Around a batch's forward and backward pass: only the `last` one of a step exchanges gradients."""
    if isinstance(net, DistributedDataParallel) and not last:
        return net.no_sync()
    if (synchronise := getattr(net, "set_requires_gradient_sync", None)) is not None:  # FSDP2's
        synchronise(last)
    return nullcontext()
