"""Where a model's time goes: the time of each operator, such that all of them together are the run.

A profiler adds a few microseconds to each operator, which doubles the time of a small model. So runs with and without
it alternate, and the same amount is taken off every operator, so that what is left adds up to the run without it. What
operators do not account for is the runtime's own, and on a busy machine what other processes took. A time is the mean
of the quickest quarter of the runs: what disturbs a run only adds to it, and a mean is finer than the whole
microseconds that a profiler writes.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from headway.core.errors import UsageError
from headway.core.progress import SILENT, Progress
from headway.core.tensors import Array
from headway.measure.count import Work, work
from headway.measure.latency import interleave
from headway.measure.origin import Origins
from headway.runtimes.profiling import Operator, Profiles, ProfilingSession
from headway.runtimes.runtime import Runtime, Session

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 50
_WARM = 3  # runs that `interleave` makes before its rounds
_RECORDED = " recorded"


class Layer(BaseModel):
    """One operator's part of a run.

    Attributes:
        name: of the node that the runtime executes.
        kind: such as `QLinearConv`.
        blocked: whether it works on channels in blocks.
        inputs: tensors that it reads.
        outputs: tensors that it writes.
        aliases: names under which another variant's file may know what it computes.
        weights: shape of what it multiplies by, as the model's file has it; () without.
        ms: of a run.
        work: what it computes and moves in a run; None where nothing was counted.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    blocked: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()
    ms: float
    work: Work | None = None


class Profile(BaseModel):
    """A run, operator by operator. Milliseconds.

    Attributes:
        layers: in the order of execution.
        ms: of a whole run without the profiler.
        outside_ms: of it, what no operator accounts for.
        recorded_ms: of a whole run with the profiler.
        taken_off_ms: from every operator, for the profiler.
        rows: the batch.
        threads: of a run.
    """

    model_config = ConfigDict(frozen=True)

    layers: tuple[Layer, ...]
    ms: float
    outside_ms: float
    recorded_ms: float
    taken_off_ms: float
    rows: int
    threads: int


def profile(
    runtime: Runtime,
    models: Mapping[str, Path],
    inputs: Mapping[str, Array],
    *,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 2.0,
    progress: Progress = SILENT,
) -> dict[str, Profile]:
    """Profile several models in the same rounds.

    Args:
        runtime: runs all of them.
        models: files by name.
        inputs: of every run, by name, [rows, ...].
        device: to run on.
        threads: of a run.
        seconds: to spend, about; a slow model is run 46 times nevertheless.
        progress: told of each round.

    Raises:
        UsageError: the runtime cannot profile.
        FormatError: a file is not a model that it reads.
    """
    if not isinstance(runtime, Profiles):
        raise UsageError(f"{runtime.name} cannot say what each operator takes", remedy="Profile on onnxruntime.")
    with ExitStack() as stack:
        plain: dict[str, Session] = {}
        recorded: dict[str, ProfilingSession] = {}
        for name, file in models.items():
            plain[name] = runtime.load(file, device=device, threads=threads)
            stack.callback(plain[name].close)
            recorded[name + _RECORDED] = runtime.profile(file, device=device, threads=threads)
            stack.callback(recorded[name + _RECORDED].close)
        taken = interleave(
            {
                **{name: partial(session.run, inputs) for name, session in plain.items()},
                **{name: partial(session.run, inputs) for name, session in recorded.items()},
            },
            seconds=seconds,
            least_rounds=_LEAST_ROUNDS,
            most_rounds=_MOST_ROUNDS,
            progress=progress,
            title="profile " + ", ".join(models),
        )
        rows = next((len(value) for value in inputs.values() if value.ndim), 1)
        return {
            name: _profile(
                recorded[name + _RECORDED].finish(),
                Origins(runtime.graph(file)),
                _typical(taken[name].ravel()),
                _typical(taken[name + _RECORDED].ravel()),
                rows,
                threads,
            )
            for name, file in models.items()
        }


def _profile(
    operators: Sequence[Operator], origins: Origins, ms: float, recorded_ms: float, rows: int, threads: int
) -> Profile:
    raw = np.array([_typical(operator.microseconds[_WARM:]) for operator in operators]) / 1000
    off = taken_off(raw, ms)
    own = np.maximum(raw - off, 0.0)
    layers = []
    for operator, spent in zip(operators, own, strict=True):
        aliases, weights = origins.of(operator)
        layers.append(
            Layer(
                name=operator.name,
                kind=operator.kind,
                blocked=operator.blocked,
                inputs=operator.inputs,
                outputs=operator.outputs,
                aliases=aliases,
                weights=weights,
                ms=float(spent),
                work=work(operator, weights),
            )
        )
    return Profile(
        layers=tuple(layers),
        ms=ms,
        outside_ms=max(0.0, ms - float(own.sum())),
        recorded_ms=recorded_ms,
        taken_off_ms=off,
        rows=rows,
        threads=threads,
    )


def taken_off(raw: NDArray[np.float64], ms: float) -> float:
    """What to take off every time, none of which becomes less than nothing, so that they add up to `ms` at most."""
    falling = np.sort(raw)[::-1]
    for count in range(len(falling), 0, -1):
        off = (falling[:count].sum() - ms) / count
        if off <= falling[count - 1]:
            return max(0.0, float(off))
    return 0.0


def _typical(taken: Sequence[float] | NDArray[np.float64]) -> float:
    ordered = np.sort(taken)
    return float(ordered[: (len(ordered) + 3) // 4].mean())
