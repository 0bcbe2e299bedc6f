"""What gradients cost on the wire between copies of a model (DDP), smaller where asked for, and counted.

Sources: Vogels et al. 2019 (PowerSGD); Patarasu and Yuan 2009 (a ring all-reduce of n processes sends 2(n-1)/n of the
data from each, which no other does with less).
"""

import threading
import time
from collections.abc import Callable

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from headway.train.result import Communication

Reduced = torch.futures.Future[torch.Tensor]
Reduce = Callable[[GradBucket], tuple[Reduced, int]]  # the average to come, and the bytes that stand for it
_PROBE = 2**21  # fp32 values, 8 MiB: large enough that the link's bandwidth counts and not its delay
_EXACT_STEPS = 10  # of PowerSGD: early gradients turn fast, and a low rank would not follow them
_RANK = 2


class Traffic:
    """DDP's communication hook, and a count of what goes through it.

    Args:
        group: the copies.
        compress: "none", "fp16", "bf16" or "powersgd".
    """

    def __init__(self, group: dist.ProcessGroup, compress: str) -> None:
        self._group, self._reduce = group, _HOOKS[compress](group)
        self._ring = 2 * (group.size() - 1) / group.size()
        self._lock = threading.Lock()  # buckets come home on the backend's own threads
        self._bytes = self._seconds = 0.0
        self._link = self._probe()

    def hook(self, state: object, bucket: GradBucket) -> Reduced:
        """One bucket of gradients to their average."""
        began = time.perf_counter()
        reduced, size = self._reduce(bucket)

        def count(done: Reduced) -> torch.Tensor:
            value = done.value()
            with self._lock:
                self._seconds += time.perf_counter() - began
                self._bytes += size * self._ring
            return value

        return reduced.then(count)

    def told(self, steps: int) -> Communication | None:
        """The average over `steps`; None where nothing was sent."""
        if not steps or not self._seconds:
            return None
        bandwidth = self._bytes / self._seconds
        return Communication(self._bytes / steps, self._seconds / steps, bandwidth, bandwidth / self._link)

    def _probe(self) -> float:
        """Bytes/s that each process sends in one large all-reduce; the best of three, for others use the link too."""
        values = torch.zeros(_PROBE)
        best = 0.0
        for _ in range(3):
            dist.barrier(self._group)
            began = time.perf_counter()
            dist.all_reduce(values, group=self._group)
            best = max(best, values.nbytes * self._ring / (time.perf_counter() - began))
        return best


def _none(group: dist.ProcessGroup) -> Reduce:
    return lambda bucket: (default_hooks.allreduce_hook(group, bucket), bucket.buffer().nbytes)


def _fp16(group: dist.ProcessGroup) -> Reduce:
    return lambda bucket: (default_hooks.fp16_compress_hook(group, bucket), bucket.buffer().numel() * 2)


def _bf16(group: dist.ProcessGroup) -> Reduce:
    def reduce(bucket: GradBucket) -> tuple[Reduced, int]:  # torch's own one insists on NCCL
        values = bucket.buffer()
        small = values.to(torch.bfloat16).div_(group.size())
        work = dist.all_reduce(small, group=group, async_op=True)
        assert work is not None  # noqa: S101  (this process is in the group)
        return work.get_future().then(lambda done: values.copy_(done.value()[0])), small.nbytes

    return reduce


def _powersgd(group: dist.ProcessGroup) -> Reduce:
    state = powerSGD_hook.PowerSGDState(group, matrix_approximation_rank=_RANK, start_powerSGD_iter=_EXACT_STEPS)

    def reduce(bucket: GradBucket) -> tuple[Reduced, int]:
        before, values = state.total_numel_after_compression, bucket.buffer()
        reduced = powerSGD_hook.powerSGD_hook(state, bucket)
        sent = state.total_numel_after_compression - before
        return reduced, (sent or values.numel()) * values.element_size()

    return reduce


_HOOKS: dict[str, Callable[[dist.ProcessGroup], Reduce]] = {
    "none": _none,
    "fp16": _fp16,
    "bf16": _bf16,
    "powersgd": _powersgd,
}
