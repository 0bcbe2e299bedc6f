"""What was chosen to serve on this machine, why, and where that is kept until something it hangs on changes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from headway.bundles.bundle import Bundle
from headway.bundles.manifest import Latency
from headway.core import machine, plugins
from headway.core.errors import HeadwayError, StorageError
from headway.core.files import digest_json, home, write_atomic
from headway.observe.logs import logger

_ALIKE = 1.05  # medians this near to the lowest: the one with fewest threads leaves most to others


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Record):
    """What a variant took here with so many threads, at batch 1."""

    variant: str
    threads: int
    latency_ms: Latency


class Choice(_Record):
    """What serves here, and why.

    Attributes:
        variant: its id.
        threads: CPU threads of one run.
        source: `measured` at this start; `kept` from an earlier one; `pinned` by the user; `sealed`: the manifest's
            choice, because nothing was to be measured; `only`: nothing else could run.
        why: in one sentence.
        figures: of everything that was measured, fastest median first.
        left_out: the reason, by what cannot serve here.
    """

    variant: str
    threads: int
    source: Literal["measured", "kept", "pinned", "sealed", "only"]
    why: str
    figures: tuple[Figure, ...] = ()
    left_out: dict[str, str] = {}


class _Kept(_Record):
    key: str
    choice: Choice


def best(figures: Iterable[Figure], p99_ms: float | None) -> tuple[Figure, str]:
    """The figure that serves, and why: the lowest median of those whose 99th percentile keeps `p99_ms`.

    Where none keeps it, the lowest of all. Among medians within 5% of the lowest, the fewest threads win.
    """
    measured = list(figures)
    within = [f for f in measured if p99_ms is None or f.latency_ms.p99 <= p99_ms]
    pool = within or measured
    least = min(f.latency_ms.p50 for f in pool)
    alike = [f for f in pool if f.latency_ms.p50 <= _ALIKE * least]
    chosen = min(alike, key=lambda f: (f.threads, f.latency_ms.p50))
    why = (
        f"{'lowest' if len(alike) == 1 else 'fewest threads among the lowest'} of {len(measured)} medians measured here"
    )
    if p99_ms is not None:
        count = f"{len(within)} keep" if within else "none keeps"
        why += f", of which {count} the contract's 99th percentile of {p99_ms:g} ms"
    return chosen, why


def key_of(bundle: Bundle, counts: Sequence[int], seconds: float) -> str:
    """SHA-256 of everything that a choice hangs on: bundle, machine, settings, and versions of the runtimes."""
    here = machine.here().model_dump(include={"system", "architecture", "cpu", "cores", "instruction_sets"})
    runtimes = {variant.runtime: _version(variant.runtime) for variant in bundle.manifest.variants}
    return digest_json(
        {"bundle": bundle.digest, "machine": here, "threads": counts, "seconds": seconds, "runtimes": runtimes}
    )


def keep(key: str, choice: Choice) -> None:
    """Keep a choice under `HEADWAY_HOME`. Where that cannot be written to, the log says so and serving goes on."""
    try:
        write_atomic(_file(key), _Kept(key=key, choice=choice).model_dump_json(indent=2) + "\n")
    except (StorageError, OSError) as error:
        logger.warning("choice not kept", extra={"fields": {"reason": str(error)}})


def kept(key: str) -> Choice | None:
    """The choice that was kept under this key. A file that is unreadable, or not of this key, is as none."""
    try:
        found = _Kept.model_validate_json(_file(key).read_bytes(), strict=True)
    except (OSError, ValidationError):
        return None
    return found.choice.model_copy(update={"source": "kept"}) if found.key == key else None


def _file(key: str) -> Path:
    return home() / "cache" / "choices" / f"{key}.json"


def _version(runtime: str) -> str:
    try:
        return str(plugins.load("headway.runtimes", runtime)().available().detail)
    except HeadwayError as error:
        return error.message
