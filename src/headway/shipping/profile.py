"""`headway profile`: model files or bundles, operator by operator."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.bundles.golden import of_rows
from headway.core import machine, plugins
from headway.core.errors import UsageError
from headway.core.files import write_atomic
from headway.core.progress import SILENT, Progress
from headway.core.tensors import Array, TensorSpec
from headway.measure.causes import Comparison, compare
from headway.measure.join import totals
from headway.measure.profile import Profile, profile
from headway.measure.reach import Reached, reach
from headway.measure.roofline import roofline
from headway.measure.timeline import chrome_trace, memory
from headway.runtimes.runtime import Runtime
from headway.shipping.joined import page
from headway.shipping.opened import opened
from headway.shipping.pack import samples_for


@dataclass(frozen=True)
class Profiled:
    """What `headway profile` found.

    Attributes:
        profile: of the model.
        comparison: with the other as the parent; None without one.
        reached: the model against the machine's roofline.
    """

    profile: Profile
    reached: Reached
    comparison: Comparison | None

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        about: dict[str, Any] = {
            "compute": _compute(self.profile) | {"roofline": self.reached.document()},
            "memory": memory(self.profile).document(),
            "machine": machine.here().model_dump(mode="json"),
        }
        for operator, it in zip(about["compute"]["operators"], self.reached.each, strict=True):
            operator |= it.document()
        if self.comparison is not None:
            about["against"] = _compute(self.comparison.parent)
            about["speedup"] = self.comparison.parent.ms / self.comparison.child.ms
            about["causes"] = [cause.document() for cause in self.comparison.causes]
            about["worst"] = self.comparison.worst
        return about


def profile_files(
    model: Path,
    *,
    against: Path | None = None,
    inputs: Path | None = None,
    batch: int = 1,
    threads: int = 1,
    seconds: float = 2.0,
    html: Path | None = None,
    trace: Path | None = None,
    progress: Progress = SILENT,
) -> Profiled:
    """Profile an ONNX file, or a bundle's chosen variant, alone or beside another in the same rounds.

    Args:
        model: the file or bundle.
        against: what it was made from, or another to be held against it; it takes the same inputs.
        inputs: `.npz` with one array for each input, by name; without it, a bundle's first golden sample, or seeded
            random numbers.
        batch: rows of a run; those that there are are repeated.
        threads: of a run.
        seconds: to spend, about.
        html: write a page there.
        trace: write a Chrome trace there.
        progress: told of each round.

    Raises:
        FormatError: not an ONNX file or a bundle.
        TamperedError: the bundle is not what was sealed.
        DataError: the inputs do not suit the model.
        UsageError: the two run on different runtimes, take different inputs, or the runtime cannot profile.
    """
    one = opened(model)
    files = {"the model": one.file}
    if against is not None:
        other = opened(against)
        if other.runtime != one.runtime:
            raise UsageError(f"one runs on {one.runtime}, the other on {other.runtime}", where=str(against))
        files = {"the other": other.file, **files}
    runtime: Runtime = plugins.load("headway.runtimes", one.runtime)()
    session = runtime.load(one.file, threads=threads)
    try:
        own = None if inputs is not None else one.samples
        values = _rows((own or samples_for(session, inputs, None, str(model))[0])[0].inputs, session.inputs, batch)
    finally:
        session.close()
    if against is not None:
        _check_same(runtime, files["the other"], values, against)
    found = profile(runtime, files, values, threads=threads, seconds=seconds, progress=progress)
    mine = found["the model"]
    comparison = compare(found["the other"], mine) if against is not None else None
    reached = reach(mine, roofline(threads, progress=progress))
    if trace is not None:
        write_atomic(trace, json.dumps(chrome_trace(mine)))
    if html is not None:
        write_atomic(html, page(comparison, reached, str(against or ""), str(model)))
    return Profiled(mine, reached, comparison)


def _rows(inputs: Mapping[str, Array], specs: tuple[TensorSpec, ...], batch: int) -> dict[str, Array]:
    if batch > 1 and not any(spec.batched for spec in specs):
        raise UsageError("the model's batch does not vary", where="--batch", remedy="Leave --batch out.")
    return of_rows(inputs, specs, batch)


def _check_same(runtime: Runtime, file: Path, values: Mapping[str, Array], where: Path) -> None:
    session = runtime.load(file)
    session.close()
    wanted = {spec.name: spec for spec in session.inputs}
    if set(wanted) != set(values) or not all(
        wanted[name].admits(value.shape) and wanted[name].dtype == value.dtype for name, value in values.items()
    ):
        raise UsageError(
            "it takes " + ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in session.inputs)
            + ", the model " + ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in values.items()),
            where=str(where),
            remedy="Give two forms of one model.",
        )  # fmt: skip


def _compute(found: Profile) -> dict[str, Any]:
    about = found.model_dump(mode="json", exclude={"layers"})
    about["kinds"] = [{"kind": kind, "count": count, "ms": ms} for kind, count, ms in totals(found)]
    about["operators"] = [{"name": it.name, "kind": it.kind, "ms": it.ms} for it in found.layers]
    return about
