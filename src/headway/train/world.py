"""The processes that train together, and where this one stands among them.

torchrun starts them and says who is who through the environment; torch's process groups do the talking. A batch is cut
into equal shares, each for the processes that share every layer, and everything that is summed up over processes is an
average, as DDP and FSDP2 take it of gradients.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from headway.core.errors import WorkerError
from headway.tasks.parts import Indices
from headway.train.config import TrainConfig
from headway.train.launch import launched
from headway.train.mix import resolve
from headway.train.precision import choose

_KEPT: list[dist.ProcessGroup | None] = []  # until the process ends
_SILENCE = timedelta(minutes=10)  # a process that says nothing for so long is lost


@dataclass(frozen=True)
class World:
    """Several processes, or one alone.

    Attributes:
        size: how many there are.
        rank: of this one, from 0.
        mesh: of the dimensions "data", "shard" and "tensor"; None for one alone.
        files: a process group on the CPU of its own, for checkpoints that are written beside the steps.
    """

    size: int = 1
    rank: int = 0
    mesh: DeviceMesh | None = None
    files: dist.ProcessGroup | None = None

    @property
    def shards(self) -> int:
        """Processes over which one copy of the model is spread."""
        return 1 if self.mesh is None else self.mesh["shard"].size()

    @property
    def tensor(self) -> int:
        """Processes that share each layer, and with it their rows of a batch and their random numbers."""
        return 1 if self.mesh is None else self.mesh["tensor"].size()

    @property
    def place(self) -> int:
        """Which share of a batch is this process's, from 0."""
        return self.rank // self.tensor

    def share(self, batch: Indices) -> tuple[Indices, float]:
        """This process's rows of `batch`, and the weight of their mean: over all processes, weights average 1.

        A batch of fewer than two rows a share is not cut: every process takes all of it, for batch norm cannot train
        on one row.
        """
        shares = self.size // self.tensor
        if shares == 1 or len(batch) < 2 * shares:
            return batch, 1.0
        mine = batch[self.place :: shares]
        return mine, len(mine) * shares / len(batch)

    def settle(self, loss: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
        """The average loss of a step; batch norm's running statistics become their average likewise.

        Args:
            loss: of this process's shares, weighted; a scalar.
        """
        if self.size == 1:
            return loss
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        running = [value for m in norms for value in (m.running_mean, m.running_var) if value is not None]
        whole = torch.cat([loss.reshape(1), *(value.flatten().to(loss.dtype) for value in running)])
        dist.all_reduce(whole)
        whole /= self.size
        mean, *rest = torch.split(whole, [1, *(value.numel() for value in running)])
        for value, average in zip(running, rest, strict=True):
            value.copy_(average.view_as(value))
        return mean.reshape(())

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Of each wish, whether any process has it: what only one of them did would hang the others."""
        if self.size == 1:
            return wishes
        votes = torch.tensor(wishes, dtype=torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return tuple(map(bool, votes.tolist()))

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Turn what torch raises when another process has gone into a `WorkerError`."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_loss(error):
                raise
            raise WorkerError(
                f"another process was lost, as rank {self.rank} of {self.size} found",
                remedy="Start the same command again: it goes on from the last checkpoint, with as many as there are.",
            ) from error


ALONE = World()


@contextmanager
def join(config: TrainConfig) -> Iterator[World]:
    """Join the processes that torchrun started; `ALONE` where it started one, or none.

    Raises:
        ConfigError: `train.parallel` does not fit their number, or there is no such device.
    """
    size = int(os.environ["WORLD_SIZE"]) if launched() else 1
    mix = resolve(config.parallel, size)
    if size == 1:
        yield ALONE
        return
    device = choose(config).device.type
    if device != "cpu":
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    backend = dist.get_default_backend_for_device(device)
    kinds = "gloo" if device == "cpu" else f"cpu:gloo,{device}:{backend}"
    store, rank, _ = next(rendezvous("env://", timeout=_SILENCE))
    # torchrun's agent may keep its store when it starts processes again, and with it the addresses of those before.
    fresh = PrefixStore(f"headway-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(kinds, store=fresh, rank=rank, world_size=size, timeout=_SILENCE)
    sizes = {"data": mix.data, "shard": mix.shard, "tensor": mix.tensor}
    mesh = init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    files = dist.new_group(backend="gloo")
    # A thread of gloo's that is the last to let go of its group waits for itself, and the process is aborted.
    _KEPT.extend((dist.group.WORLD, files, *mesh.get_all_groups()))
    yield World(size, dist.get_rank(), mesh, files)
    # Only after good work: whoever tidies up after an error tells the others of a loss before anybody knows the cause.
    dist.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Gloo raises plain `RuntimeError`s, which only their text tells apart."""
    told = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in told for word in ("gloo", "connection closed by peer", "connection reset", "nccl")
    )
