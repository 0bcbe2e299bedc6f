"""The memory of a bundle's variant, or of an ONNX file, over many runs."""

import itertools
from pathlib import Path

from headway.core import plugins
from headway.core.progress import SILENT, Progress
from headway.measure.leak import BOUND, Leak, watch
from headway.runtimes.runtime import Runtime
from headway.shipping.opened import opened
from headway.shipping.pack import samples_for


def leak(
    target: Path,
    *,
    variant: str | None = None,
    rounds: int = 1000,
    bound: float = BOUND,
    progress: Progress = SILENT,
) -> Leak:
    """Run a model again and again with its golden inputs, and see whether memory grows.

    Args:
        target: a bundle, or an ONNX file, which gets random inputs.
        variant: the bundle's, by id; by default the chosen one.
        rounds: runs of each of the two passes.
        bound: bytes a round below which growth does not matter.
        progress: told of each round.

    Raises:
        FormatError: the target is neither.
        TamperedError: the bundle is not what was sealed.
        MissingDependencyError: the variant's runtime is not here.
    """
    model = opened(target, variant)
    runtime: Runtime = plugins.load("headway.runtimes", model.runtime)()
    session = runtime.load(model.file, threads=model.threads)
    try:
        samples = model.samples or samples_for(session, None, None, str(target))[0]
        turn = itertools.cycle([sample.inputs for sample in samples])
        return watch(lambda: session.run(next(turn)), rounds=rounds, bound=bound, progress=progress, title="run")
    finally:
        session.close()
