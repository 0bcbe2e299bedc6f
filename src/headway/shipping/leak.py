"""The memory of a bundle's variant, or of an ONNX file, over many runs."""

import itertools
from pathlib import Path
from typing import NamedTuple

from headway.bundles.bundle import Bundle
from headway.core import plugins
from headway.core.errors import UsageError
from headway.core.progress import SILENT, Progress
from headway.measure.leak import BOUND, Leak, watch
from headway.runtimes.formats import Format, recognise, require_onnx
from headway.runtimes.runtime import Runtime
from headway.shipping.golden_inputs import Inputs
from headway.shipping.pack import RUNTIME, samples_for


class Subject(NamedTuple):
    """What is run: a model file, with whose inputs."""

    file: Path
    runtime: str
    threads: int
    inputs: list[Inputs]


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
    bundled = recognise(target) in (Format.BUNDLE, Format.ARCHIVE)
    if variant is not None and not bundled:
        raise UsageError("an ONNX file has no variants", where=str(target), remedy="Leave --variant out.")
    if not bundled:
        require_onnx(target)
    subject = _of_bundle(target, variant) if bundled else Subject(target, RUNTIME, 1, [])
    runtime: Runtime = plugins.load("headway.runtimes", subject.runtime)()
    session = runtime.load(subject.file, threads=subject.threads)
    try:
        inputs = subject.inputs or [sample.inputs for sample in samples_for(session, None, None, str(target))[0]]
        turn = itertools.cycle(inputs)
        return watch(lambda: session.run(next(turn)), rounds=rounds, bound=bound, progress=progress, title="run")
    finally:
        session.close()


def _of_bundle(target: Path, variant: str | None) -> Subject:
    bundle = Bundle.open(target)
    bundle.verify(trust_any=True)
    manifest = bundle.manifest
    try:
        chosen = manifest.variant(variant)
    except KeyError:
        remedy = f"It has: {', '.join(each.id for each in manifest.variants)}."
        raise UsageError(f"there is no variant {variant!r}", where=str(target), remedy=remedy) from None
    inputs = [sample.inputs for sample in bundle.golden()]
    return Subject(bundle.model_file(chosen), chosen.runtime, manifest.contract.threads, inputs)
