"""Choose here: which variant serves on this machine, and with how many threads.

A bundle's figures come from the machine it was sealed on. Another machine has other cores and other instruction sets,
on which the order of the variants can be another, and a variant can even answer otherwise. So what can run here is
proved, measured briefly, and the choice is kept for this machine.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from headway.bundles.bundle import Bundle
from headway.bundles.golden import of_rows
from headway.bundles.manifest import Variant
from headway.core import machine
from headway.core.errors import BundleError, HeadwayError
from headway.core.tensors import Array
from headway.measure.latency import interleave, summarise
from headway.observe.logs import logger
from headway.runtimes.runtime import Session
from headway.serve.choice import Choice, Figure, best, keep, kept, key_of
from headway.serve.config import CHOOSE_SECONDS

Open = Callable[[Variant, int], Session]
"""Loads a variant with so many threads and replays its golden samples; raises where it cannot serve."""

_LEAST_ROUNDS, _MOST_ROUNDS = 1, 300


class _Candidate(NamedTuple):
    variant: str
    threads: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.threads} thread{'s' if self.threads != 1 else ''}"


def choose(
    bundle: Bundle,
    open_variant: Open,
    *,
    variant: str | None = None,
    threads: int | None = None,
    seconds: float = CHOOSE_SECONDS,
) -> tuple[Choice, Session]:
    """The choice, and the session it names; every other session is closed.

    Args:
        bundle: a bundle that was verified.
        open_variant: see `Open`.
        variant: pinned: nothing is measured.
        threads: pinned; without it, 1 and the usable cores are tried, or, where nothing is measured, as many as the
            contract says.
        seconds: to measure in, about; a model so slow that they do not suffice is still run 7 times for each
            candidate. 0 measures nothing and takes the manifest's choice.

    Raises:
        BundleError: no such variant, or none can serve here. Where there is one alone, its own error.
    """
    if variant is not None or seconds <= 0:
        choice = _given(bundle, variant, threads)
        session = open_variant(bundle.manifest.variant(choice.variant), choice.threads)
    else:
        counts = (threads,) if threads else tuple(dict.fromkeys((1, machine.usable_cores())))
        key = key_of(bundle, counts, seconds)
        again = _again(bundle, key, counts, open_variant)
        choice, session = again or _measured(bundle, counts, seconds, open_variant)
        if choice.source == "measured":
            keep(key, choice)
    fields = {"model": bundle.manifest.name, "version": bundle.manifest.version, **choice.model_dump()}
    fields["figures"] = {f"{f.variant} x{f.threads}": f.latency_ms.p50 for f in choice.figures}
    logger.info("variant chosen", extra={"fields": fields})
    return choice, session


def _given(bundle: Bundle, variant: str | None, threads: int | None) -> Choice:
    """The choice that needs no measuring."""
    manifest = bundle.manifest
    if variant is not None and variant not in [v.id for v in manifest.variants]:
        raise BundleError(
            f"there is no variant {variant!r}",
            where=manifest.name,
            remedy=f"It has: {', '.join(v.id for v in manifest.variants)}.",
        )
    return Choice(
        variant=variant or manifest.chosen,
        threads=threads or min(manifest.contract.threads, machine.usable_cores()),
        source="pinned" if variant else "sealed",
        why="pinned by the user" if variant else "the manifest's choice: nothing was to be measured",
    )


def _again(bundle: Bundle, key: str, counts: Iterable[int], open_variant: Open) -> tuple[Choice, Session] | None:
    """The kept choice, if there is one and it still proves itself."""
    choice = kept(key)
    if choice is None or choice.threads not in counts:
        return None
    try:
        return choice, open_variant(bundle.manifest.variant(choice.variant), choice.threads)
    except Exception as error:  # noqa: BLE001  (whatever it is, the others are tried)
        fields = {"model": bundle.manifest.name, "variant": choice.variant, "reason": str(error)}
        logger.warning("the kept choice does not serve here any more", extra={"fields": fields})
        return None


def _measured(bundle: Bundle, counts: Iterable[int], seconds: float, open_variant: Open) -> tuple[Choice, Session]:
    sessions: dict[_Candidate, Session] = {}
    try:
        left_out = _open_all(bundle, counts, open_variant, sessions)
        if len(sessions) == 1:
            (chosen,) = sessions
            choice = Choice(
                variant=chosen.variant, threads=chosen.threads, source="only", why="nothing else can run here",
                left_out=left_out,
            )  # fmt: skip
        else:
            choice = _compare(bundle, sessions, seconds, left_out)
            chosen = _Candidate(choice.variant, choice.threads)
        return choice, sessions.pop(chosen)
    finally:
        for session in sessions.values():
            session.close()


def _open_all(
    bundle: Bundle, counts: Iterable[int], open_variant: Open, sessions: dict[_Candidate, Session]
) -> dict[str, str]:
    """Fill `sessions` with what can serve here; the reasons of what cannot. Raises where nothing can."""
    left_out: dict[str, str] = {}
    failures: list[Exception] = []
    for variant, count in itertools.product(bundle.manifest.variants, counts):
        if variant.id in left_out:
            continue  # another number of threads does not help
        candidate = _Candidate(variant.id, count)
        try:
            session = open_variant(variant, count)
        except Exception as error:  # noqa: BLE001  (an engine raises what it likes; raised again where nothing is left)
            failures.append(error)
            reason = error.message if isinstance(error, HeadwayError) else str(error)
            opened = any(other.variant == variant.id for other in sessions)
            left_out[str(candidate) if opened else variant.id] = reason
            fields = {"model": bundle.manifest.name, "variant": variant.id, "threads": count, "reason": reason}
            logger.warning("variant left out: it cannot serve here", extra={"fields": fields})
        else:
            sessions[candidate] = session
    if not sessions and len(failures) == 1:
        raise failures[0]
    if not sessions:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BundleError(f"no variant can serve here: {reasons}", where=bundle.manifest.name)
    return left_out


def _compare(bundle: Bundle, sessions: dict[_Candidate, Session], seconds: float, left_out: dict[str, str]) -> Choice:
    contract = bundle.manifest.contract
    rows = _single_rows(bundle)

    def going_round(session: Session) -> Callable[[], object]:
        turn = itertools.cycle(rows)
        return lambda: session.run(next(turn))

    taken = interleave(
        {str(candidate): going_round(session) for candidate, session in sessions.items()},
        seconds=seconds,
        least_rounds=_LEAST_ROUNDS,
        most_rounds=_MOST_ROUNDS,
    )
    figures = sorted(
        (
            Figure(variant=c.variant, threads=c.threads, latency_ms=summarise(taken[str(c)], contract.confidence))
            for c in sessions
        ),
        key=lambda figure: figure.latency_ms.p50,
    )
    chosen, why = best(figures, contract.p99_ms)
    if contract.p99_ms is not None and chosen.latency_ms.p99 > contract.p99_ms:
        fields = {"model": bundle.manifest.name, "p99_ms": contract.p99_ms, "here_ms": chosen.latency_ms.p99}
        logger.warning("no variant keeps the contract's 99th percentile here", extra={"fields": fields})
    return Choice(
        variant=chosen.variant, threads=chosen.threads, source="measured", why=why, figures=tuple(figures),
        left_out=left_out,
    )  # fmt: skip


def _single_rows(bundle: Bundle) -> list[dict[str, Array]]:
    """The first row of each golden sample; an input whose first dimension is fixed stays whole."""
    return [of_rows(sample.inputs, bundle.manifest.inputs, 1) for sample in bundle.golden()]
