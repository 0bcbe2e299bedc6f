"""`headway advise`: what a model would take and cost on the machines of the catalogue, and on this one."""

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.bundles.golden import of_rows
from headway.core import machine, plugins
from headway.core.errors import UsageError
from headway.core.files import write_atomic
from headway.core.progress import SILENT, Progress
from headway.measure.latency import interleave
from headway.measure.profile import profile
from headway.measure.reach import Reached, counted, reach
from headway.measure.roofline import roofline
from headway.runtimes.runtime import DEFAULT, Runtime
from headway.shipping.catalogue import HERE, Catalogue, Hardware, Mark, load
from headway.shipping.fleet import (
    IDLE,
    UTILISATION,
    Asked,
    Fleet,
    Model,
    Range,
    cannot,
    fleet,
    run_of,
    seconds_of,
    too_slow,
)
from headway.shipping.opened import opened
from headway.shipping.pack import samples_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Advice:
    """One machine.

    Attributes:
        machine: as the catalogue has it.
        run: seconds of a run; None where the model cannot run there.
        mark: how `run` came.
        fleet: for the traffic; None where the model cannot run there, or not in the time allowed.
        why: the reason for that.
        marks: how each of the machine's figures came, by its name.
    """

    machine: Hardware
    run: Range | None
    mark: Mark
    fleet: Fleet | None
    why: str | None
    marks: dict[str, Mark]

    @property
    def tops_a_watt(self) -> float | None:
        """The highest of its peaks over its watts."""
        about = self.machine
        peak = max((figure.value for figure in about.peak_tops.values()), default=None)
        return peak / about.watts.value if peak is not None and about.watts is not None else None

    @property
    def order(self) -> tuple[bool, bool, float]:
        """For sorting: what carries the traffic first, the cheapest first, unknown costs after known ones."""
        cost = self.fleet.cost if self.fleet else None
        return self.fleet is None, cost is None, cost.value if cost else (self.run.value if self.run else 0.0)


@dataclass(frozen=True)
class Advised:
    """What `headway advise` found.

    Attributes:
        name: of the model.
        model: what a run of it needs.
        reached: on the machine at hand.
        asked: by the user.
        each: machine, in order.
        catalogue: with the sources of its figures.
    """

    name: str
    model: Model
    reached: Reached
    asked: Asked
    each: tuple[Advice, ...]
    catalogue: Catalogue

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        works = self.model.works
        p99 = self.asked.p99
        return {
            "model": self.name,
            "rows": self.model.rows,
            "counted": {
                "operations": sum(work.operations or 0 for work in works),
                "weight_bytes": sum(work.weight_bytes for work in works),
                "activation_bytes": sum(work.read_bytes + work.written_bytes for work in works),
                "memory_bytes": self.model.memory,
                "uncounted": list(self.reached.unknown),
            },
            "asked": self.asked._asdict() | {"p99": None, "p99_ms": p99 * 1000 if p99 is not None else None},
            "assumed": {"utilisation": UTILISATION, "idle_watts": _range(Range(*IDLE), "modelled")},
            "here": {
                "efficiency": self.model.efficiency,
                "roofline": self.reached.document(),
                "machine": machine.here().model_dump(mode="json"),
            },
            "machines": [_advice(each) for each in self.each],
            "sources": {key: source.model_dump(mode="json") for key, source in self.catalogue.sources.items()},
        }


def advise(
    model: Path,
    *,
    rps: float = 200.0,
    p99_ms: float | None = None,
    years: float = 3.0,
    kwh_price: float = 0.30,
    machines: Path | None = None,
    inputs: Path | None = None,
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 2.0,
    html: Path | None = None,
    progress: Progress = SILENT,
) -> Advised:
    """Measure a model here, and model it on every machine of the catalogue.

    Args:
        model: ONNX file, or bundle, of which the chosen variant is taken.
        rps: rows a second to carry.
        p99_ms: that the 99th percentile may take; any without.
        years: of energy, rent and hosting.
        kwh_price: US dollars.
        machines: more of them, of the form of `machines.yaml`.
        inputs: `.npz` with one array for each input, by name; without it, golden samples or seeded random numbers.
        batch: rows of a run.
        threads: of a run here; all cores without.
        seconds: to measure in, about.
        html: write a page there.
        progress: told of the measurements.

    Raises:
        FormatError: not an ONNX file or a bundle.
        TamperedError: the bundle is not what was sealed.
        ConfigError: `machines` is wrong.
        DataError: the inputs do not suit the model.
        UsageError: the model runs on a runtime that cannot profile.
    """
    if html is not None:
        _figure()  # what is missing is told before anything is measured
    catalogue = load(machines)
    one = opened(model)
    if one.runtime != DEFAULT:
        remedy = f"Its operators are known on {DEFAULT} only: give the ONNX file."
        raise UsageError(f"it runs on {one.runtime}", where=str(model), remedy=remedy)
    threads = threads or machine.here().cores
    roof = roofline(threads, progress=progress)
    runtime: Runtime = plugins.load("headway.runtimes", one.runtime)()
    session = runtime.load(one.file, threads=threads)
    try:
        own = one.samples if inputs is None else ()
        sample = (own or samples_for(session, inputs, None, str(model))[0])[0]
        if batch > 1 and not any(spec.batched for spec in session.inputs):
            raise UsageError("the model's batch does not vary", where="--batch", remedy="Leave --batch out.")
        values = of_rows(sample.inputs, session.inputs, batch)
        taken = interleave(
            {"run": partial(session.run, values)}, seconds=seconds / 2, least_rounds=5, progress=progress
        )["run"]
        outputs = session.run(values)
    finally:
        session.close()
    found = profile(runtime, {"it": one.file}, values, threads=threads, seconds=seconds / 2, progress=progress)["it"]
    works, link = counted(found), sum(value.nbytes for value in (*values.values(), *outputs.values()))
    efficiency = min(1.0, seconds_of(works, roof.peak, roof.bandwidth) * 1000 / found.ms)
    needs = Model(works, link, batch, efficiency)
    asked = Asked(rps, p99_ms / 1000 if p99_ms is not None else None, years, kwh_price)
    measured = Range(*(float(value) / 1000 for value in np.percentile(taken, [10, 50, 90])))
    each = [_here(catalogue, measured, needs, asked)]
    each += [_elsewhere(catalogue, hardware, needs, asked) for hardware in catalogue.hardware if hardware.name != HERE]
    each.sort(key=lambda advice: advice.order)
    advised = Advised(one.name, needs, reach(found, roof), asked, tuple(each), catalogue)
    if html is not None:
        write_atomic(html, page(advised))
    return advised


def _here(catalogue: Catalogue, run: Range, model: Model, asked: Asked) -> Advice:
    told = next((each for each in catalogue.hardware if each.name == HERE), Hardware(name=HERE))
    why = too_slow(run, asked)
    return Advice(
        machine=told.model_copy(update={"note": told.note or machine.here().summary()}),
        run=run,
        mark="measured",
        fleet=None if why else fleet(run, model.rows, told, asked),
        why=why,
        marks={name: catalogue.mark(figure) for name, figure in told.figures.items()},
    )


def _elsewhere(catalogue: Catalogue, hardware: Hardware, model: Model, asked: Asked) -> Advice:
    why = cannot(model, hardware)
    run = None if why else run_of(model, hardware)
    why = why or (too_slow(run, asked) if run else None)
    return Advice(
        machine=hardware,
        run=run,
        mark="modelled",
        fleet=fleet(run, model.rows, hardware, asked) if run and not why else None,
        why=why,
        marks={name: catalogue.mark(figure) for name, figure in hardware.figures.items()},
    )


def _advice(each: Advice) -> dict[str, Any]:
    run, found = each.run, each.fleet
    about: dict[str, Any] = {
        "name": each.machine.name,
        "why_not": each.why,
        "run_ms": _range(run.times(1000), each.mark) if run else None,
        "tops_a_watt": each.tops_a_watt,
        "note": each.machine.note,
        "figures": {
            name: figure.model_dump(mode="json") | {"mark": each.marks[name]}
            for name, figure in each.machine.figures.items()
        },
    }
    if found is not None:
        about |= {
            "replicas": _range(found.replicas, "modelled"),
            "utilisation": found.utilisation,
            "p99_ms": found.p99 * 1000,
            "joules_a_row": _range(found.joules, "modelled") if found.joules else None,
            "cost_usd": _range(found.cost, "modelled") if found.cost else None,
            "cost_parts_usd": {name: _range(part, "modelled") for name, part in found.parts.items()},
        }
    return about


def _range(found: Range, mark: Mark) -> dict[str, Any]:
    return {**found._asdict(), "mark": mark}


def page(advised: Advised) -> str:
    """All of it as a page, which opens offline."""
    from jinja2 import Environment

    template = files("headway.shipping").joinpath("advise.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    used = {figure.source for each in advised.each for figure in each.machine.figures.values()}
    return environment.from_string(template).render(
        advised=advised,
        picture=picture(advised),
        idle=IDLE,
        utilisation=UTILISATION,
        here=machine.here().summary(),
        sources={key: source for key, source in advised.catalogue.sources.items() if key in used},
    )


def picture(advised: Advised) -> str:
    """What a run takes and what the traffic costs on each machine that can carry it, as SVG.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    from headway.core.svg import style, svg

    shown = [(each.machine.name, each.run.times(1000), each.fleet) for each in advised.each if each.run and each.fleet]
    with style(9):
        figure = _figure()(figsize=(11, 1 + 0.3 * len(shown)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for row, (_, run, found) in enumerate(shown):
            for axes, figures in ((left, run), (right, found.cost)):
                if figures is not None:
                    ends = [[figures.value - figures.low], [figures.high - figures.value]]
                    axes.errorbar(figures.value, row, xerr=ends, fmt="o", ms=5, lw=1.5, color="#2b6cb0")
        if advised.asked.p99 is not None:
            left.axvline(advised.asked.p99 * 1000, color="#c53030", lw=0.8, ls="--")
        left.set_yticks(range(len(shown)), [name for name, *_ in shown])
        left.set(ylim=(len(shown) - 0.5, -0.5), xscale="log", xlabel=f"ms a run of {advised.model.rows}")
        right.set(xscale="log", xlabel=f"US dollars in {advised.asked.years:g} years")
        for axes in (left, right):
            axes.grid(visible=True, which="major", lw=0.3)
        return svg(figure)


def _figure() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise plugins.missing("matplotlib", needed_by="--html") from error
    return Figure
