"""`headway bench`: how much a model answers, how fast, at which batch; and under load of MLPerf's shapes."""

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

from headway.core import machine, plugins
from headway.core.errors import UsageError
from headway.core.files import write_atomic
from headway.core.progress import SILENT, Progress
from headway.measure import sweep
from headway.measure.others import Others
from headway.runtimes.runtime import Runtime
from headway.shipping.bench_modes import MODES, Mode, Offline, Result, Server, Stream, Subject, Sweep
from headway.shipping.opened import opened
from headway.shipping.pack import samples_for


class Bench(Result):
    """What `headway bench` found.

    Attributes:
        memory_mb: allowed, in units of 10^6 bytes.
        stopped: why the climb tried no larger batch; None where there was no climb.
        expected_mb: what that batch would take, where memory ended it.
        reason: what the model said of a batch that it refused.
        others: share of the machine's processors that other processes took meanwhile, 0 to 1.
        random_inputs: nobody gave inputs.
    """

    model: str
    runtime: str
    mode: Mode
    p99_ms: float | None
    seed: int
    memory_mb: float
    stopped: sweep.Stopped | None
    expected_mb: float | None
    reason: str
    others: float
    random_inputs: bool
    result: Sweep | tuple[Stream, ...] | Server | Offline

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {**self.model_dump(mode="json"), "machine": machine.here().model_dump(mode="json")}


def bench(
    target: Path,
    *,
    mode: Mode = "sweep",
    variant: str | None = None,
    inputs: Path | None = None,
    threads: Sequence[int] = (),
    max_batch: int = 1024,
    memory_mb: float | None = None,
    p99_ms: float | None = None,
    seconds: float = 60.0,
    seed: int = 0,
    html: Path | None = None,
    progress: Progress = SILENT,
) -> Bench:
    """Measure an ONNX file, or a bundle's variant, on the CPU.

    Args:
        target: the file or bundle.
        mode: batches by turns, or one of the shapes of `measure/loadgen.py`.
        variant: the bundle's, by id; by default the chosen one.
        inputs: `.npz` with one array for each input, by name; without it, a bundle's golden samples or random numbers.
        threads: of a run, each tried; by default 1 and all usable cores.
        max_batch: the largest that is tried.
        memory_mb: allowed, in units of 10^6 bytes; never more than is free.
        p99_ms: bound on the 99th percentile.
        seconds: to measure in, about, beyond trying the batches.
        seed: of arrivals and turns.
        html: write the sweep as a page there.
        progress: told of each part.

    Raises:
        FormatError: the target is neither.
        TamperedError: the bundle is not what was sealed.
        UsageError: options that do not fit the mode, or the model does not fit the memory.
        DataError: the inputs do not suit the model.
        MissingDependencyError: the variant's runtime, or what draws the page, is not here.
    """
    _check(mode, p99_ms, html)
    model = opened(target, variant)
    runtime: Runtime = plugins.load("headway.runtimes", model.runtime)()
    runtime.available()  # imports the engine, so that its own size is not counted
    counts = tuple(dict.fromkeys(threads)) or tuple(dict.fromkeys((1, machine.usable_cores())))
    allowed = _allowed(memory_mb)
    if (size := model.file.stat().st_size) > sweep.SHARE * allowed:
        raise _too_large(size, allowed, target)
    session = runtime.load(model.file, threads=counts[0])
    try:
        own = model.samples if inputs is None else ()
        samples, drawn = (own, False) if own else samples_for(session, inputs, None, str(target))
        specs = session.inputs
    finally:
        session.close()
    others = Others()
    subject = Subject(
        model, runtime, samples[0].inputs, specs, counts, max_batch, partial(_allowed, memory_mb),
        inf if p99_ms is None else p99_ms, seconds, seed, progress,
    )  # fmt: skip
    result, climbed = MODES[mode](subject)
    if climbed is not None and climbed.trials[0].peak > sweep.SHARE * allowed:
        raise _too_large(climbed.trials[0].peak, allowed, target)
    found = Bench(
        model=model.name,
        runtime=runtime.name,
        mode=mode,
        p99_ms=p99_ms,
        seed=seed,
        memory_mb=allowed / 1e6,
        stopped=climbed.stopped if climbed else None,
        expected_mb=climbed.expected / 1e6 if climbed and climbed.expected is not None else None,
        reason=climbed.reason if climbed else "",
        others=others.share(),
        random_inputs=drawn,
        result=result,
    )
    if html is not None:
        from headway.shipping.bench_page import page

        write_atomic(html, page(found))
    return found


def _check(mode: Mode, p99_ms: float | None, html: Path | None) -> None:
    if mode == "server" and p99_ms is None:
        raise UsageError("a server is measured against a bound", where="--mode server", remedy="Give --p99 20, in ms.")
    if html is not None:
        if mode != "sweep":
            raise UsageError("only a sweep has a page", where="--html", remedy="Leave --html or --mode out.")
        if find_spec("matplotlib") is None:  # told before anything is measured
            raise plugins.missing("matplotlib", needed_by="--html")


def _allowed(memory_mb: float | None) -> float:
    """Bytes: what is free, or less where the user says so."""
    free = machine.memory()[1]
    return free if memory_mb is None else min(free, memory_mb * 1e6)


def _too_large(taken: float, allowed: float, target: Path) -> UsageError:
    return UsageError(
        f"takes {taken / 1e6:,.0f} MB at least, where {sweep.SHARE:.0%} of {allowed / 1e6:,.0f} MB is allowed",
        where=str(target),
        remedy="Free memory, or allow more with --memory.",
    )
