"""`headway export`: an ONNX file, or a bundle's model, in other formats, each proved against the original."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.bundles.golden import Sample, errors, of_rows
from headway.compress import nncf
from headway.core import machine, plugins
from headway.core.errors import FormatError, HeadwayError, MissingDependencyError, UsageError
from headway.core.files import atomic_file
from headway.core.progress import SILENT, Progress
from headway.core.tensors import TensorSpec
from headway.export.export import Converts
from headway.runtimes.formats import model_files, require_whole_onnx
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.runtime import Runtime, Session
from headway.shipping.golden_inputs import given_inputs, single_rows, tolerances
from headway.shipping.opened import opened
from headway.shipping.pack import samples_for

ALL = "all"
_CALIBRATION_ROWS = 512


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
    model: Path,
    to: str,
    *,
    out: Path | None = None,
    batch: int | None = None,
    inputs: Path | None = None,
    int8: bool = False,
    progress: Progress = SILENT,
) -> list[Exported]:
    """Write a model in one format, or in all that can be written here.

    Args:
        model: an ONNX file, or a bundle, whose chosen variant is taken.
        to: a format, or "all".
        out: the folder; by default the current one.
        batch: rows that every run will have; None where they vary.
        inputs: `.npz` with one array for each input, for the proof; by default random numbers.
        int8: write OpenVINO IR in 8 bits, calibrated on `inputs`, by NNCF in an environment of its own.
        progress: told of the work.

    Raises:
        UsageError: nobody writes that format, it would be written over its own source, or the batch cannot be set.
        FormatError: not an ONNX file, or the format lacks one of its operators, or what was written answers otherwise.
        DataError: the inputs do not fit.
        MissingDependencyError: a package that the one format needs is not installed.
        WorkerError: NNCF failed.
    """
    if int8 and (to != "openvino" or inputs is None or batch is not None):
        raise UsageError(
            "8 bits are written for OpenVINO alone, from calibration rows, with a batch that varies",
            where="--int8",
            remedy="headway export MODEL --to openvino --int8 --inputs ROWS.npz; `headway ship` has the other forms.",
        )
    if to != ALL and to not in formats():
        raise UsageError(f"nobody writes {to!r}", where="--to", remedy=f"One of: {', '.join(formats())}, {ALL}.")
    name, file, *_ = opened(model)
    about = require_whole_onnx(file)
    done, wanted = [], formats() if to == ALL else (to,)
    with progress.work("export", len(wanted)) as bar:
        for each in wanted:
            try:
                job = _Job(file, each, batch, inputs, int8, int8 or about.precision == "int8", progress)
                done.append(job.write(out or Path(), name))
            except (FormatError, MissingDependencyError) as error:
                if to != ALL:
                    raise
                done.append(Exported(each, (), why=str(error)))
            bar.advance(1)
    return done


@dataclass(frozen=True)
class _Job:
    """One format to write."""

    file: Path
    to: str
    batch: int | None
    inputs: Path | None
    int8: bool
    quantized: bool
    progress: Progress

    def write(self, folder: Path, name: str) -> Exported:
        """Write it as `name`, once it is proved."""
        kind = plugins.load("headway.exports", self.to)()
        if not isinstance(kind, Converts):
            raise FormatError(f"{self.to} is not written from an ONNX file", where=str(self.file))
        target = folder / f"{name}{kind.suffix}"
        if target.exists() and target.samefile(self.file):
            raise UsageError("would be written over its own source", where=str(target), remedy="Choose another --out.")
        with tempfile.TemporaryDirectory(prefix="headway-") as scratch:
            trial = Path(scratch, target.name)
            made = self._int8(trial) if self.int8 else kind.convert(self.file, trial, batch=self.batch)
            proved, differences = self._prove(made[0], kind.format)
            files = tuple(target.with_name(one.name) for one in made)
            for one, at in reversed(list(zip(made, files, strict=True))):  # what points to the others last
                with atomic_file(at) as fresh:
                    shutil.copyfile(one, fresh)
        return Exported(self.to, files, proved, differences)

    def _int8(self, out: Path) -> tuple[Path, ...]:
        if not (ready := plugins.load("headway.runtimes", "openvino")().available()).ready:
            raise MissingDependencyError(ready.detail, where="--int8")
        session = OnnxRuntime().load(self.file)
        try:
            specs = session.inputs
        finally:
            session.close()
        last = given_inputs(self.inputs or Path(), specs, most=_CALIBRATION_ROWS)[-1]
        rows = [sample.inputs for sample in single_rows([Sample(last, {})], specs)] or [last]
        nncf.calibrate(self.file, out, rows, machine.here().int8, progress=self.progress)
        return model_files(out)

    def _prove(self, made: Path, format_: str) -> tuple[str, dict[str, float] | None]:
        """Answer the inputs, or random ones, from both.

        Raises:
            FormatError: they differ by more than rounding.
        """
        file = self.file
        loaded: list[Runtime] = [plugins.load("headway.runtimes", n)() for n in plugins.names("headway.runtimes")]
        runtime = next((r for r in loaded if format_ in r.formats and r.available().ready), None)
        if runtime is None:
            return "", None
        original = OnnxRuntime().load(file)
        try:
            drawn = samples_for(original, self.inputs, None, str(file))[0]
            samples = _samples(drawn, original.inputs, self.batch, original)
        finally:
            original.close()
        session = runtime.load(made)
        try:
            found = errors(samples, session)
        except HeadwayError as error:
            raise FormatError(f"what was written does not run: {error.message}", where=str(file)) from error
        finally:
            session.close()
        outputs = {n: [s.outputs[n] for s in samples] for n in found}
        allowed = tolerances(outputs, dict.fromkeys(found, 0.0), quantized=self.quantized)
        if worse := [name for name, value in found.items() if not value <= allowed[name]]:
            raise FormatError(
                f"in {runtime.name} output {worse[0]!r} of what was written differs by {found[worse[0]]:.3g},"
                f" where {allowed[worse[0]]:.3g} is allowed",
                where=str(file),
                remedy="8 bits lose that much here; `headway ship` judges by your metric whether it is too much."
                if self.int8
                else f"See where: headway parity {file}",
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
