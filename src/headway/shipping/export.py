"""`headway export`: an ONNX file, or a bundle's model, in other formats, each proved against the original."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.bundles.golden import Sample, errors, of_rows
from headway.core import plugins
from headway.core.errors import FormatError, HeadwayError, MissingDependencyError, UsageError
from headway.core.progress import SILENT, Progress
from headway.core.tensors import TensorSpec
from headway.export.export import Converts
from headway.runtimes.formats import require_whole_onnx
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.runtime import Runtime, Session
from headway.shipping.golden_inputs import tolerances
from headway.shipping.opened import opened
from headway.shipping.pack import samples_for

ALL = "all"


@dataclass(frozen=True)
class Exported:
    """One format, or why there is none.

    Attributes:
        files: that were written; the first is what a runtime is given.
        proved: the runtime that answered from them as the original does; "" where none of this format is here.
        differences: the largest, by output.
        why: where nothing was written.
    """

    format: str
    files: tuple[Path, ...]
    proved: str = ""
    differences: dict[str, float] | None = None
    why: str = ""


def formats() -> tuple[str, ...]:
    """What `--to` takes, but for `all`."""
    return tuple(plugins.names("headway.exports"))


def export(
    model: Path, to: str, *, out: Path | None = None, batch: int | None = None, progress: Progress = SILENT
) -> list[Exported]:
    """Write a model in one format, or in all that can be written here.

    Args:
        model: an ONNX file, or a bundle, whose chosen variant is taken.
        to: a format, or "all".
        out: the folder; by default the current one.
        batch: rows that every run will have; None where they vary.
        progress: told of the work.

    Raises:
        UsageError: nobody writes that format, it would be written over its own source, or the batch cannot be set.
        FormatError: not an ONNX file, or the format lacks one of its operators, or what was written answers otherwise.
        MissingDependencyError: a package that the one format needs is not installed.
    """
    if to != ALL and to not in formats():
        raise UsageError(f"nobody writes {to!r}", where="--to", remedy=f"One of: {', '.join(formats())}, {ALL}.")
    name, file, *_ = opened(model)
    about = require_whole_onnx(file)
    done, wanted = [], formats() if to == ALL else (to,)
    with progress.work("export", len(wanted)) as bar:
        for each in wanted:
            try:
                done.append(_write(file, name, each, out or Path(), batch, quantized=about.precision == "int8"))
            except (FormatError, MissingDependencyError) as error:
                if to != ALL:
                    raise
                done.append(Exported(each, (), why=str(error)))
            bar.advance(1)
    return done


def _write(file: Path, name: str, to: str, folder: Path, batch: int | None, *, quantized: bool) -> Exported:
    kind = plugins.load("headway.exports", to)()
    if not isinstance(kind, Converts):
        raise FormatError(f"{to} is not written from an ONNX file", where=str(file))
    target = folder / f"{name}{kind.suffix}"
    if target.exists() and target.samefile(file):
        raise UsageError("would be written over its own source", where=str(target), remedy="Choose another --out.")
    with tempfile.TemporaryDirectory(prefix="headway-") as scratch:  # proved before anything is written
        trial = kind.convert(file, Path(scratch, target.name), batch=batch)
        proved, differences = _prove(file, trial[0], kind.format, batch, quantized=quantized)
    return Exported(to, kind.convert(file, target, batch=batch), proved, differences)


def _prove(
    file: Path, made: Path, format_: str, batch: int | None, *, quantized: bool
) -> tuple[str, dict[str, float] | None]:
    """Answer random inputs from both.

    Raises:
        FormatError: they differ by more than rounding.
    """
    loaded: list[Runtime] = [plugins.load("headway.runtimes", n)() for n in plugins.names("headway.runtimes")]
    runtime = next((r for r in loaded if format_ in r.formats and r.available().ready), None)
    if runtime is None:
        return "", None
    original = OnnxRuntime().load(file)
    try:
        samples = _samples(samples_for(original, None, None, str(file))[0], original.inputs, batch, original)
    finally:
        original.close()
    session = runtime.load(made)
    try:
        found = errors(samples, session)
    except HeadwayError as error:
        raise FormatError(f"what was written does not run: {error.message}", where=str(file)) from error
    finally:
        session.close()
    allowed = tolerances(
        {n: [s.outputs[n] for s in samples] for n in found}, dict.fromkeys(found, 0.0), quantized=quantized
    )
    if worse := [name for name, value in found.items() if not value <= allowed[name]]:
        raise FormatError(
            f"in {runtime.name} output {worse[0]!r} of what was written differs by {found[worse[0]]:.3g},"
            f" where {allowed[worse[0]]:.3g} is allowed",
            where=str(file),
            remedy=f"See where: headway parity {file}",
        )
    return runtime.name, found


def _samples(
    samples: Sequence[Sample], specs: Sequence[TensorSpec], batch: int | None, session: Session
) -> Sequence[Sample]:
    """The samples, or one of as many rows as the batch has."""
    if batch is None:
        return samples
    inputs = of_rows(samples[-1].inputs, specs, batch)
    return [Sample(inputs, session.run(inputs))]
