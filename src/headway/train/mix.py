"""How many processes do what: the recipe's `train.parallel`, held against the number of processes there are."""

from dataclasses import dataclass

from headway.core.errors import ConfigError
from headway.train.config import Parallel

_WHERE = "train.parallel"


@dataclass(frozen=True)
class Mix:
    """Sizes of the mesh of processes; `data * shard` is the number of shares that a batch is cut into."""

    data: int
    shard: int
    tensor: int = 1


def resolve(parallel: Parallel, processes: int) -> Mix:
    """The mix that `parallel` asks for among `processes`.

    Raises:
        ConfigError: they do not multiply to `processes`, or a kind is asked for that there is not.
    """
    if parallel.pipeline > 1:
        raise ConfigError(
            "pipeline parallel training is not there yet",
            where=_WHERE,
            remedy="Set pipeline to 1 and use shard or tensor.",
        )
    copy = parallel.shard * parallel.tensor  # processes that hold one copy of the model
    kinds = [kind for kind in ("shard", "tensor") if getattr(parallel, kind) > 1] or ["shard"]
    said = " times ".join(f"{kind}: {getattr(parallel, kind)}" for kind in kinds)
    if parallel.data == "auto":
        if processes % copy:
            raise ConfigError(
                f"{processes} processes cannot be shared out among {said}",
                where=_WHERE,
                remedy=f"Start {_near(processes, copy)} processes, or set {' times '.join(kinds)} to "
                f"{_divisors(processes)}.",
            )
        return Mix(processes // copy, parallel.shard, parallel.tensor)
    asked = parallel.data * copy
    if asked != processes:
        raise ConfigError(
            f"data: {parallel.data} times {said} is {asked}, and there are {processes} processes",
            where=_WHERE,
            remedy=f"Start {asked} processes (headway train --nproc {asked}), or set data to auto.",
        )
    return Mix(parallel.data, parallel.shard, parallel.tensor)


def _near(processes: int, copy: int) -> str:
    low = processes // copy * copy
    return f"{low} or {low + copy}" if low else str(copy)


def _divisors(processes: int) -> str:
    *most, last = [str(n) for n in range(1, processes + 1) if processes % n == 0]
    return f"{', '.join(most)} or {last}" if most else last
