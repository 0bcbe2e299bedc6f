"""What a model takes on a machine that is not here, how many of them its traffic needs, and what they cost.

A run takes what the roofline of each operator adds up to, divided by the efficiency that the machine at hand reached
with the same model; and the copies to and from a device. What is not known has two ends: at best a machine reaches its
whole roofline with the better of its figures, at worst half of that efficiency with the worse ones.
"""

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import NamedTuple

from headway.measure.count import Precision, Work
from headway.measure.queueing import p99_of, utilisation_for
from headway.measure.reach import fits_cache
from headway.measure.roofline import bound
from headway.shipping.catalogue import Figure, Hardware

UTILISATION = 0.7
"""Of a replica, at most: room for traffic that is not even, and for one that is being replaced."""
IDLE = 0.1, 0.3, 0.6
"""Part of its watts that a machine takes when it does nothing: low, typical, high. Assumed."""
_OTHERS = 0.1  # of the operations, at most, in another precision than the only one a machine has
_HOURS = 8766  # of a year


class Range(NamedTuple):
    """A figure, and between what it may lie."""

    low: float
    value: float
    high: float

    def times(self, factor: float) -> "Range":
        """All three, multiplied."""
        return Range(*(factor * each for each in self))


NOTHING = Range(0, 0, 0)


class Model(NamedTuple):
    """What a run of a model needs.

    Attributes:
        works: of its operators.
        link_bytes: of inputs and outputs, which a device gets from its host and gives back.
        rows: of a run.
        efficiency: time by the roofline over time taken, on the machine at hand.
    """

    works: tuple[Work, ...]
    link_bytes: int
    rows: int
    efficiency: float

    @property
    def memory(self) -> int:
        """Bytes of its weights, and of what its largest operator reads and writes."""
        largest = max((work.read_bytes + work.written_bytes for work in self.works), default=0)
        return sum(work.weight_bytes for work in self.works) + largest


class Asked(NamedTuple):
    """What the user wants.

    Attributes:
        rps: rows a second.
        p99: seconds that the 99th percentile may take; None for any.
        years: that it shall run.
        kwh_price: US dollars.
    """

    rps: float
    p99: float | None
    years: float
    kwh_price: float


class Fleet(NamedTuple):
    """The replicas that carry the traffic, and what they cost. US dollars over the years asked for.

    Attributes:
        replicas: machines.
        utilisation: of each, at the typical time of a run.
        p99: seconds that the 99th percentile surely keeps then.
        joules: a row, of a machine at full load; None where its watts are not known.
        parts: costs by what they are for; those that are not known are missing.
        cost: their sum; None where neither price nor rent is known.
    """

    replicas: Range
    utilisation: float
    p99: float
    joules: Range | None
    parts: dict[str, Range]
    cost: Range | None


def seconds_of(
    works: Sequence[Work],
    peak: Mapping[Precision, float],
    bandwidth: float,
    *,
    efficiency: float = 1.0,
    operator: float = 0.0,
) -> float:
    """Seconds of a run by the roofline.

    What stays in a cache costs nothing here, on any machine: vendors do not tell how fast caches are.

    Args:
        works: of the operators.
        peak: operations a second by precision.
        bandwidth: bytes a second.
        efficiency: of the roofline that is reached.
        operator: seconds that any takes at least.
    """
    resident = fits_cache(works)
    least = (bound(work, peak, bandwidth, inf, resident=resident).seconds for work in works if work.bytes)
    return sum(max(operator, seconds / efficiency) for seconds in least)


def cannot(model: Model, machine: Hardware) -> str | None:
    """Why the model does not run there; None where nothing speaks against it."""
    if machine.memory_gb is not None and model.memory > machine.memory_gb.value * 1e9:
        return (
            f"it needs {model.memory / 1e6:,.0f} MB of memory, of which there are {machine.memory_gb.value * 1e3:,.0f}"
        )
    if "fp32" not in machine.peak_tops:
        own = sum(work.operations or 0 for work in model.works if work.precision in machine.peak_tops)
        if own < (1 - _OTHERS) * sum(work.operations or 0 for work in model.works):
            return f"it computes in {' and '.join(machine.peak_tops)} only, and most of this model does not"
    return None


def run_of(model: Model, machine: Hardware) -> Range:
    """Seconds of a run, modelled."""

    def at(end: str, other: str, efficiency: float) -> float:
        peak = {precision: _end(figure, end) * 1e12 for precision, figure in machine.peak_tops.items()}
        peak.setdefault("fp32", max(peak.values()))
        # Without a bandwidth, all of it is on the chip.
        bandwidth = _end(machine.bandwidth_gb_s, end) * 1e9 if machine.bandwidth_gb_s else inf
        operator = _end(machine.operator_us, other) / 1e6 if machine.operator_us else 0.0
        copies = model.link_bytes / (_end(machine.link_gb_s, end) * 1e9) if machine.link_gb_s else 0.0
        return seconds_of(model.works, peak, bandwidth, efficiency=efficiency, operator=operator) + copies

    return Range(
        at("most", "least", 1.0),
        at("value", "value", model.efficiency),
        at("least", "most", model.efficiency / 2),
    )


def too_slow(run: Range, asked: Asked) -> str | None:
    """Why the bound cannot be kept with any number of replicas; None where it can."""
    if asked.p99 is not None and run.value >= asked.p99:
        return f"a run alone takes {1000 * run.value:.3g} ms, where {1000 * asked.p99:.3g} are allowed"
    return None


def fleet(run: Range, rows: int, machine: Hardware, asked: Asked) -> Fleet:
    """Replicas for the traffic and their cost.

    Args:
        run: seconds of one.
        rows: of a run.
        machine: with its watts and prices.
        asked: by the user; `too_slow` found no reason against it.
    """
    replicas = Range(*(_replicas(seconds, run.value, rows, asked) for seconds in run))
    load = asked.rps * run.value / rows / replicas.value
    parts: dict[str, Range] = {}
    if machine.hourly_usd is not None:
        parts["rent"] = _product(replicas, _range(machine.hourly_usd).times(_HOURS * asked.years))
    elif machine.price_usd is not None:
        parts["hardware"] = _product(replicas, _range(machine.price_usd))
        if machine.watts is not None:
            shares = Range(*(idle + (1 - idle) * load for idle in IDLE))
            hours = asked.years * _HOURS / 1000 * asked.kwh_price
            parts["energy"] = _product(_product(replicas, _range(machine.watts)), shares.times(hours))
        if machine.hosting_month_usd is not None:
            parts["hosting"] = _product(replicas, _range(machine.hosting_month_usd).times(12 * asked.years))
    cost = Range(*(sum(part[end] for part in parts.values()) for end in range(3))) if parts else None
    joules = _product(run, _range(machine.watts)).times(1 / rows) if machine.watts is not None else None
    return Fleet(replicas, load, p99_of(run.value, load), joules, parts, cost)


def _replicas(seconds: float, typical: float, rows: int, asked: Asked) -> int:
    """Machines for runs of `seconds`; one that could not keep the bound at all is loaded as a typical one is."""
    allowed = UTILISATION
    if asked.p99 is not None:
        allowed = min(allowed, utilisation_for(seconds, asked.p99) or utilisation_for(typical, asked.p99))
    return max(1, ceil(asked.rps * seconds / rows / allowed - 1e-9))


def _product(one: Range, other: Range) -> Range:
    return Range(*(a * b for a, b in zip(one, other, strict=True)))


def _range(figure: Figure) -> Range:
    return Range(figure.least, figure.value, figure.most)


def _end(figure: Figure, end: str) -> float:
    return float(getattr(figure, end))
