"""`headway advise`: on which machine a model would run, how many of them, and what they would cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.render import Bars, Json, emit, out, table

if TYPE_CHECKING:
    from headway.shipping.advise import Advice, Advised
    from headway.shipping.fleet import Fleet, Range


def advise(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|BUNDLE", help="What shall run.", show_default=False)],
    rps: Annotated[float, typer.Option(min=0.001, help="Rows a second to carry.")] = 200.0,
    p99: Annotated[
        float | None, typer.Option(min=0, help="ms that 99% of the requests may take.", show_default="any")
    ] = None,
    years: Annotated[float, typer.Option(min=0.01, help="Years of energy, rent and hosting.")] = 3.0,
    kwh_price: Annotated[float, typer.Option(min=0, help="US dollars.")] = 0.30,
    machines: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="More machines, or others.", show_default=False)
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help=".npz with an array for each input, by name.",
            show_default="a bundle's first golden sample, or random numbers",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a run.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads a run here.", show_default="all cores")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time to measure in, about.")] = 2.0,
    html: Annotated[Path | None, typer.Option(help="Write it as a page, too.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Compare machines for a model: time, replicas for the traffic, energy and cost, each with its range.

    The model is measured on this machine; what it would take elsewhere is modelled from that and from vendors' figures.
    """
    from headway.shipping.advise import advise as run

    found = run(
        model, rps=rps, p99_ms=p99, years=years, kwh_price=kwh_price, machines=machines, inputs=inputs, batch=batch,
        threads=threads, seconds=seconds, html=html, progress=Bars(),
    )  # fmt: skip
    if json:
        emit(found.document())
        return
    _show(found)
    if html is not None:
        out().print(f"page: {html}", markup=False, soft_wrap=True)


def _show(found: "Advised") -> None:
    asked, model = found.asked, found.model
    bound = f", 99% within {1000 * asked.p99:g} ms" if asked.p99 is not None else ""
    say = f"{found.name}: {asked.rps:g} rows a second{bound}, for {asked.years:g} years at {asked.kwh_price:g} $/kWh"
    operations = sum(work.operations or 0 for work in model.works)
    moved, threads = sum(work.bytes for work in model.works), found.reached.roofline.threads
    reached = (
        f"{operations / 1e6:,.1f} M operations and {moved / 1e6:,.1f} MB a run of {model.rows}; measured here with "
        f"{threads} thread{'s' if threads != 1 else ''}: {model.efficiency:.0%} of the roofline"
    )
    out().print(say, markup=False, soft_wrap=True)
    out().print(reached, markup=False, soft_wrap=True)
    if found.reached.unknown:
        out().print(f"only the bytes are counted of: {', '.join(found.reached.unknown)}", markup=False, soft_wrap=True)
    columns = ["machine", "ms a run", "replicas", "busy", "99% within", "J a row", "TOPS/W", "$ in all"]
    table("", columns, [_row(each, each.run, each.fleet) for each in found.each if each.run and each.fleet])
    for each in found.each:
        if each.fleet is None:
            out().print(f"{each.machine.name}: {each.why}", markup=False, soft_wrap=True)
        elif each.machine.note:
            out().print(f"{each.machine.name}: {each.machine.note}", markup=False, soft_wrap=True)
    words = "here is measured, elsewhere modelled: at best its whole roofline, at worst half the efficiency found here"
    out().print(words, markup=False, soft_wrap=True)


def _row(each: "Advice", run: "Range", fleet: "Fleet") -> list[str]:
    cost, joules, watt = fleet.cost, fleet.joules, each.tops_a_watt
    return [
        each.machine.name,
        _between(run.times(1000)),
        _between(fleet.replicas),
        f"{fleet.utilisation:.0%}",
        f"{1000 * fleet.p99:.3g} ms",
        f"{joules.value:.2g}" if joules else "",
        f"{watt:.2g}" if watt else "",
        _between(cost, ",.0f") if cost else "not known",
    ]


def _between(found: "Range", form: str = ".3g") -> str:
    around = f" ({found.low:{form}} to {found.high:{form}})" if found.high > found.low else ""
    return f"{found.value:{form}}{around}"
