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

    @property
    def shares(self) -> int:
        """Of a batch."""
        return self.data * self.shard


def resolve(parallel: Parallel, processes: int) -> Mix:
    """The mix that `parallel` asks for among `processes`.

    Raises:
        ConfigError: they do not multiply to `processes`, or a kind is asked for that there is not.
    """
    for kind in ("tensor", "pipeline"):
        if getattr(parallel, kind) > 1:
            raise ConfigError(
                f"{kind} parallel training is not there yet", where=_WHERE, remedy=f"Set {kind} to 1 and use shard."
            )
    if parallel.data == "auto":
        if processes % parallel.shard:
            raise ConfigError(
                f"{processes} processes cannot be shared out among shard: {parallel.shard}",
                where=_WHERE,
                remedy=f"Start {_near(processes, parallel.shard)} processes, or set shard to {_divisors(processes)}.",
            )
        return Mix(processes // parallel.shard, parallel.shard)
    asked = parallel.data * parallel.shard
    if asked != processes:
        raise ConfigError(
            f"data: {parallel.data} times shard: {parallel.shard} is {asked}, and there are {processes} processes",
            where=_WHERE,
            remedy=f"Start {asked} processes (headway train --nproc {asked}), or set data to auto.",
        )
    return Mix(parallel.data, parallel.shard)


def _near(processes: int, shard: int) -> str:
    low = processes // shard * shard
    return f"{low} or {low + shard}" if low else str(shard)


def _divisors(processes: int) -> str:
    *most, last = [str(n) for n in range(1, processes + 1) if processes % n == 0]
    return f"{', '.join(most)} or {last}" if most else last
