"""`headway pack`: seals a ready ONNX file as it stands. Nothing is compared, and the bundle says so."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample, errors
from headway.bundles.manifest import Contract, Lineage, Name, Variant, Version
from headway.bundles.padding import check_padding
from headway.bundles.processing import Prepared
from headway.bundles.seal import Draft, check_target, seal
from headway.core import machine, plugins
from headway.core.errors import DataError, FormatError, HeadwayError, UsageError
from headway.core.files import digest_file, exclusive, folder_lock
from headway.core.tensors import TensorSpec
from headway.runtimes.formats import require_whole_onnx
from headway.runtimes.onnx_file import OnnxFile
from headway.runtimes.runtime import DEFAULT, Runtime, Session
from headway.serve.padding import Padding, refuted
from headway.shipping.golden_inputs import (
    SIZES,
    Inputs,
    given_inputs,
    processed_inputs,
    random_inputs,
    single_rows,
    tolerances,
)
from headway.shipping.processing import Declaration

_ID = "original"
_MAX_LABELS_BYTES = 16 << 20


@dataclass(frozen=True)
class Packed:
    """A sealed bundle, and how its golden inputs came about."""

    bundle: Bundle
    random_inputs: bool


def pack(
    model: Path,
    *,
    name: str,
    out: Path | None = None,
    version: str = "1",
    inputs: Path | None = None,
    labels: Path | None = None,
    processing: Path | None = None,
    padding: Mapping[str, float] | None = None,
) -> Packed:
    """Seal an ONNX file with golden samples.

    Args:
        model: the file.
        name: of the model; it stands in URLs.
        out: the bundle's folder; by default the name, in the current folder.
        version: a whole number from 1.
        inputs: `.npz` with one array for each input, by name; without it, what processing makes of its samples where
            it feeds every input, else seeded random ones.
        labels: text file with the name of each class on its own line.
        processing: YAML file that declares what is done between a client and the model.
        padding: what fills up a shorter row, by input, so that rows of different lengths can share a run.

    Raises:
        ConfigError: the declaration is wrong, or does not fit the model.
        UsageError: the name, the version, the labels or the padding do not fit, or padding changes the answers.
        FormatError: the file is not an ONNX model, is damaged, or keeps weights in other files.
        DataError: the inputs do not fit, or the model answers NaN.
    """
    for kind, value, what in ((Name, name, "--name"), (Version, version, "--version")):
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"{value!r} will not do: {error.errors()[0]['msg']}", where=what) from error
    folder = Path(out or name).absolute()
    check_target(folder)
    declaration = Declaration.load(processing) if processing is not None else None
    about = require_whole_onnx(model)
    with exclusive(folder_lock(folder), str(folder)):
        runtime: Runtime = plugins.load("headway.runtimes", DEFAULT)()
        session = runtime.load(model, threads=1)
        try:
            specs = session.inputs, session.outputs
            named = _labels(labels, specs[1]) if labels else ()
            prepared = declaration.prepare(*specs, named) if declaration is not None else None
            samples, drawn = samples_for(session, inputs, prepared, str(model))
            tolerance = _tolerance(runtime, model, samples, specs[0], quantized=about.precision == "int8")
            if padding:
                _prove_padding(session, padding, samples, tolerance)
        finally:
            session.close()
        draft = Draft(
            name=name,
            version=version,
            inputs=specs[0],
            outputs=specs[1],
            labels=named,
            variants=(
                Variant(
                    id=_ID,
                    file="",
                    format="onnx",
                    runtime=DEFAULT,
                    precision=about.precision,
                    tolerance=tolerance,
                ),
            ),
            chosen=_ID,
            contract=Contract(),
            lineage=_lineage(model, prepared.processing.packages() if prepared is not None else ()),
            padding=dict(padding or {}),
        )
        report = _report(draft, about, model, samples, prepared, random_inputs=drawn)
        bundle = seal(folder, draft, models={_ID: model}, golden=samples, report=report, processing=prepared)
    return Packed(bundle, random_inputs=drawn)


def samples_for(
    session: Session, given: Path | None, prepared: Prepared | None, where: str
) -> tuple[list[Sample], bool]:
    """Golden samples: the inputs, and what the model answers; and whether the inputs were drawn at random."""
    if not session.inputs or not session.outputs:
        raise FormatError("the model has no inputs or no outputs", where=where)
    for spec in (*session.inputs, *session.outputs):
        _ = spec.dtype  # raises for what numpy cannot hold
    if given is not None:
        return _answered(session, given_inputs(given, session.inputs), where), False
    if prepared is not None and (made := processed_inputs(prepared, session.inputs)):
        return _answered(session, made, where), False
    for size, larger in pairwise((*SIZES, 0)):
        try:
            return _answered(session, random_inputs(session.inputs, size=size), where), True
        except HeadwayError as error:
            if not larger or not any(-1 in spec.shape[1:] for spec in session.inputs):
                raise DataError(
                    f"random inputs do not suit the model: {error.message}",
                    where=where,
                    remedy="Give real ones: --inputs SAMPLES.npz, with one array for each input, by name.",
                ) from error
    raise AssertionError("the last size returns or raises")


def _answered(session: Session, batches: Sequence[Inputs], where: str) -> list[Sample]:
    samples = []
    for inputs in batches:
        try:
            outputs = session.run(inputs)
        except HeadwayError:
            raise
        except Exception as error:  # ONNX Runtime raises errors of many kinds here
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"the model fails on the inputs: {reason}", where=where) from error
        for name, value in outputs.items():
            if value.dtype.kind == "f" and np.isnan(value).any():
                raise DataError(f"the model's output {name!r} holds NaN", where=where)
        samples.append(Sample(inputs, outputs))
    return samples


def _tolerance(
    runtime: Runtime, model: Path, samples: Sequence[Sample], specs: Sequence[TensorSpec], *, quantized: bool
) -> dict[str, float]:
    """Run the samples with other threads, whole and row by row, and allow a multiple of what that changes."""
    session = runtime.load(model, threads=2)
    try:
        seen = errors([*samples, *single_rows(samples, specs)], session)
    finally:
        session.close()
    return tolerances({name: [sample.outputs[name] for sample in samples] for name in seen}, seen, quantized=quantized)


def _prove_padding(
    session: Session, padding: Mapping[str, float], samples: Sequence[Sample], tolerance: Mapping[str, float]
) -> None:
    """Raise `UsageError` where the model cannot be padded so, or answers otherwise when it is."""
    try:
        check_padding(session.inputs, session.outputs, padding)
    except ValueError as error:
        raise UsageError(str(error), where="--pad") from error
    reason = refuted(Padding(session.inputs, session.outputs, padding), session, samples, tolerance)
    if reason:
        remedy = "Pad every input of that length, and give real --inputs: random ones may hold an empty mask."
        raise UsageError(reason, where="--pad", remedy=remedy)


def _labels(path: Path, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    try:
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise UsageError("too large for a list of labels", where=str(path))
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the labels cannot be read as text, one on each line", where=str(path)) from error
    if not labels or not all(labels):
        raise UsageError("there must be a label on every line", where=str(path))
    classes = outputs[0].shape[-1] if outputs[0].shape else -1
    if classes not in (-1, len(labels)):
        raise UsageError(f"{len(labels)} labels, but {outputs[0].name!r} has {classes} classes", where=str(path))
    return labels


def _lineage(model: Path, extra: Iterable[str]) -> Lineage:
    return Lineage(
        source_sha256=digest_file(model),
        packages={name: installed(name) for name in ("headway", "numpy", DEFAULT, *extra)},
        machine=machine.here(),
    )


def _report(
    draft: Draft,
    about: OnnxFile,
    model: Path,
    samples: Sequence[Sample],
    prepared: Prepared | None,
    *,
    random_inputs: bool,
) -> str:
    from jinja2 import Environment, StrictUndefined

    template = files("headway.shipping").joinpath("packed.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(template).render(
        draft=draft,
        about=about,
        model=model.name,
        size_mb=model.stat().st_size / 1e6,
        samples=len(samples),
        processing=prepared.processing.lines() if prepared is not None else {},
        random_inputs=random_inputs,
        tolerance=draft.variants[0].tolerance,
    )
