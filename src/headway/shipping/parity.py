"""`headway parity`: whether a model answers the same in every format, precision and runtime.

The original of an ONNX file is the file itself, computed node by node; of a bundle, the golden answers in it.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample, difference
from headway.bundles.manifest import Variant
from headway.core import machine, plugins
from headway.core.errors import HeadwayError, MissingDependencyError
from headway.core.progress import SILENT, Progress
from headway.core.tensors import Array
from headway.export.export import Converts
from headway.runtimes.formats import require_whole_onnx
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.runtime import Runtime
from headway.shipping.divergence import Divergence, first_divergence
from headway.shipping.golden_inputs import tolerances
from headway.shipping.opened import sealed
from headway.shipping.pack import samples_for

_SHAPE = "another shape, or not finite"
State = Literal["pass", "fail", "refused", "not installed", "not run here"]


@dataclass(frozen=True)
class Difference:
    """Of one output, over all samples.

    Attributes:
        largest: absolute; infinite where shapes or text differ.
        mean: absolute.
        allowed: what `largest` may be.
        agreement: share of rows of an output [..., classes] whose largest element stands at the same place; None where
            there is no choice.
    """

    largest: float
    mean: float
    allowed: float
    agreement: float | None


@dataclass(frozen=True)
class Line:
    """One form of the model in one runtime.

    Attributes:
        state: "refused" is what the runtime says it cannot run; "not run here" what it was not given.
        why: in words, unless it passed or failed by its numbers.
        differences: by output; none unless it ran.
        divergence: where a failed one first goes wrong; None where nothing failed, or it could not be told.
    """

    model: str
    format: str
    precision: str
    runtime: str
    device: str
    state: State
    why: str = ""
    differences: Mapping[str, Difference] | None = None
    divergence: Divergence | None = None

    @property
    def absent(self) -> bool:
        """Whether it was not run because the device is not here."""
        return self.state == "not run here" and self.device != "cpu"

    @property
    def worst(self) -> Difference | None:
        """Of the output that differs most, by what it may."""
        found = (self.differences or {}).values()
        return max(found, key=lambda one: one.largest / max(one.allowed, 1e-300), default=None)

    @property
    def words(self) -> str:
        """Why, and where it first goes wrong."""
        whole = _SHAPE if self.worst and np.isinf(self.worst.largest) else ""
        if (at := self.divergence) is None:
            return self.why or whole
        share = f"{at.error:.2%} of its largest value" if np.isfinite(at.error) else _SHAPE
        return at.why or f"first at {at.layer} ({at.operator}): {share}"


@dataclass(frozen=True)
class Parity:
    """What was found."""

    model: str
    original: str
    inputs: str
    samples: int
    lines: tuple[Line, ...]

    @property
    def failed(self) -> bool:
        """Whether one does not answer as the original does."""
        return any(line.state == "fail" for line in self.lines)

    def document(self) -> dict[str, Any]:
        """What `--json` prints; infinity, which JSON lacks, as null."""
        found = asdict(self) | {"failed": self.failed, "machine": machine.here().model_dump(mode="json")}
        for line in found["lines"]:
            for one in (*(line["differences"] or {}).values(), *filter(None, [line["divergence"]])):
                one |= {key: None for key, value in one.items() if value == float("inf")}
        return found


@dataclass(frozen=True)
class _Form:
    """A file to run, what it is called, and what its answers may differ by; `sealed` for this runtime where named."""

    model: str
    file: Path
    format: str
    precision: str
    allowed: Mapping[str, float]
    sealed: str = ""


def parity(model: Path, *, inputs: Path | None = None, progress: Progress = SILENT) -> Parity:
    """Run every form of a model in every runtime and compare.

    Args:
        model: an ONNX file or a bundle.
        inputs: `.npz` with an array for each input, for an ONNX file; by default random ones. A bundle brings its own.
        progress: told of the runs.

    Raises:
        FormatError: neither of the two.
        DataError: the inputs do not fit.
    """
    if (bundle := sealed(model)) is not None:
        samples, about = list(bundle.golden()), "the bundle's golden samples"
        forms = [_sealed(bundle, variant) for variant in bundle.manifest.variants]
        original = "the golden answers in the bundle"
    else:
        quantized = require_whole_onnx(model).precision
        session = OnnxRuntime().reference(model)
        try:
            samples, drawn = samples_for(session, inputs, None, str(model))
        finally:
            session.close()
        about = "random numbers" if drawn else str(inputs)
        outputs = {name: [s.outputs[name] for s in samples] for name in samples[0].outputs}
        allowed = tolerances(outputs, dict.fromkeys(outputs, 0.0), quantized=quantized == "int8")
        forms = [_Form(model.name, model, "onnx", quantized, allowed)]
        original = "the ONNX file, computed node by node"
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        lines = tuple(_lines(forms, samples, Path(folder), progress))
    return Parity(str(model), original, about, len(samples), lines)


def page(found: Parity) -> str:
    """The same as a page that opens offline."""
    from jinja2 import Environment

    template = files("headway.shipping").joinpath("parity.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(found=found)


def _sealed(bundle: Bundle, variant: Variant) -> _Form:
    file = bundle.model_file(variant)
    return _Form(variant.id, file, variant.format, variant.precision, variant.tolerance, variant.runtime)


def _lines(forms: Sequence[_Form], samples: Sequence[Sample], folder: Path, progress: Progress) -> Iterator[Line]:
    runtimes: list[Runtime] = [plugins.load("headway.runtimes", n)() for n in plugins.names("headway.runtimes")]
    every = [each for number, form in enumerate(forms) for each in _forms(form, folder / str(number))]
    with progress.work("parity", len(every)) as bar:
        for form in every:
            if isinstance(form, Line):
                yield form
            else:
                for runtime in (r for r in runtimes if form.format in r.formats):
                    yield from _compare(form, runtime, samples)
            bar.advance(1)


def _forms(form: _Form, folder: Path) -> Iterator[_Form | Line]:
    """The form itself, and what an ONNX file of one that no runtime has a form of its own for can be converted to."""
    yield form
    if form.format != "onnx" or form.precision == "int8":
        return
    for name in plugins.names("headway.exports"):
        export = plugins.load("headway.exports", name)()
        if export.format == form.format or not isinstance(export, Converts):
            continue
        try:
            file, *_ = export.convert(form.file, folder / f"model{export.suffix}")
        except MissingDependencyError as error:
            yield Line(form.model, export.format, form.precision, "", "", "not installed", error.message)
        except HeadwayError as error:
            yield Line(form.model, export.format, form.precision, "", "", "refused", error.message)
        else:
            yield replace(form, file=file, format=export.format, sealed="")


def _compare(form: _Form, runtime: Runtime, samples: Sequence[Sample]) -> Iterator[Line]:
    """A line for the CPU, and one for each other device of the runtime."""
    for device in runtime.devices:
        line = Line(form.model, form.format, form.precision, runtime.name, device, "pass")
        availability = runtime.available(device)
        if form.precision == "int8" and not runtime.runs_qdq and form.sealed != runtime.name:
            if device == "cpu":
                yield replace(line, state="not run here", why="its 8 bits are not in the form that this runtime wants")
        elif not availability.ready:
            absent = device == "cpu"
            yield replace(line, state="not installed" if absent else "not run here", why=availability.detail)
        else:
            yield _run(line, form, runtime, samples)


def _run(line: Line, form: _Form, runtime: Runtime, samples: Sequence[Sample]) -> Line:
    try:
        session = runtime.load(form.file, device=line.device)
    except HeadwayError as error:
        own = form.sealed == runtime.name and line.device == "cpu"
        return replace(line, state="fail" if own else "refused", why=error.message)
    try:
        answers = [session.run(sample.inputs) for sample in samples]
    except HeadwayError as error:
        return replace(line, state="fail", why=error.message)
    finally:
        session.close()
    found = {
        name: _difference([s.outputs[name] for s in samples], [a[name] for a in answers], form.allowed.get(name, 0.0))
        for name in samples[0].outputs
        if name in answers[0]
    }
    if missing := set(samples[0].outputs) - set(found):
        return replace(line, state="fail", why=f"no output {min(missing)!r}")
    if all(one.largest <= one.allowed for one in found.values()):
        return replace(line, differences=found)
    where = None
    if form.format == "onnx":
        quantized = form.precision == "int8"
        where = first_divergence(form.file, runtime, line.device, samples[-1], form.allowed, quantized=quantized)
    return replace(line, state="fail", differences=found, divergence=where)


def _difference(expected: Sequence[Array], got: Sequence[Array], allowed: float) -> Difference:
    pairs = list(zip(expected, got, strict=True))
    if any(e.shape != g.shape for e, g in pairs):
        return Difference(float("inf"), float("inf"), allowed, None)
    if expected[0].dtype.kind in "OSU":
        apart = max(difference("", e, g) for e, g in pairs)
        return Difference(apart, apart, allowed, None)
    errors = np.concatenate([_error(e, g).ravel() for e, g in pairs])
    agreement = None
    if expected[0].dtype.kind == "f" and expected[0].ndim in (2, 3) and expected[0].shape[-1] > 1:  # not pictures
        agreement = float(np.concatenate([(e.argmax(-1) == g.argmax(-1)).ravel() for e, g in pairs]).mean())
    return Difference(float(errors.max(initial=0.0)), float(errors.mean()) if errors.size else 0.0, allowed, agreement)


def _error(expected: Array, got: Array) -> Array:
    """Absolute, in 64 bits; NaN is infinitely far from everything, and equal infinities agree."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    found: Array = np.where(expected == got, 0.0, np.where(np.isnan(apart), np.inf, apart))
    return found
