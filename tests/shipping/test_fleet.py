"""What a fleet is, whatever the machine and the traffic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.measure.count import Work
from headway.shipping.catalogue import Figure, Hardware
from headway.shipping.fleet import UTILISATION, Asked, Model, Range, cannot, fleet, run_of, too_slow

FIGURES = st.floats(0.001, 1000).map(lambda value: Figure(value=value, low=value / 2, high=2 * value, source="s"))
WORKS = st.builds(
    Work,
    operations=st.integers(1, 10**10),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    weight_bytes=st.integers(1, 10**8),
    read_bytes=st.integers(1, 10**8),
    written_bytes=st.integers(1, 10**8),
)
MODELS = st.builds(
    Model, st.lists(WORKS, min_size=1, max_size=5).map(tuple), st.integers(0, 10**6), st.just(1), st.floats(0.01, 1)
)
MACHINES = st.builds(
    Hardware,
    name=st.just("m"),
    peak_tops=FIGURES.map(lambda figure: {"fp32": figure}),
    bandwidth_gb_s=FIGURES,
    link_gb_s=st.none() | FIGURES,
    operator_us=st.none() | FIGURES,
    watts=FIGURES,
    price_usd=FIGURES,
    hosting_month_usd=st.none() | FIGURES,
)
ASKED = st.builds(Asked, st.floats(0.1, 1e4), st.none() | st.floats(0.001, 1), st.floats(1, 5), st.floats(0, 1))


@given(MODELS, MACHINES)
def test_a_run_lies_between_its_ends_and_never_beats_the_better_roofline(model: Model, machine: Hardware) -> None:
    run = run_of(model, machine)
    assert 0 < run.low <= run.value <= run.high
    assert (
        run.low >= sum(work.operations or 0 for work in model.works) / (machine.peak_tops["fp32"].most * 1e12) * 0.999
    )


@given(MODELS, MACHINES, ASKED)
def test_a_fleet_carries_the_traffic_and_keeps_the_bound(model: Model, machine: Hardware, asked: Asked) -> None:
    run = run_of(model, machine)
    if too_slow(run, asked):
        return
    found = fleet(run, model.rows, machine, asked)
    assert found.utilisation <= UTILISATION * (1 + 1e-6)
    assert found.replicas.value * model.rows / run.value * found.utilisation == pytest.approx(asked.rps)
    if asked.p99 is not None:
        assert found.p99 <= asked.p99 * 1.001
    assert found.cost is not None
    assert found.cost.low <= found.cost.value <= found.cost.high
    assert found.cost.value == pytest.approx(sum(part.value for part in found.parts.values()))


def test_by_hand() -> None:
    """10 G operations at 1 TOPS and half efficiency take 20 ms; 100 rows a second are 2 machines' work, at 70% 3."""

    def figure(value: float) -> Figure:
        return Figure(value=value, source="s")

    work = Work(operations=10**10, precision="fp32", weight_bytes=0, read_bytes=1, written_bytes=0)
    machine = Hardware(name="m", peak_tops={"fp32": figure(1)}, watts=figure(100), price_usd=figure(500))
    run = run_of(Model((work,), 0, 1, 0.5), machine)
    assert run == pytest.approx(Range(0.01, 0.02, 0.04))
    found = fleet(run, 1, machine, Asked(100, None, 3, 0.3))
    assert found.replicas == (2, 3, 6)
    assert found.joules == pytest.approx((1, 2, 4))
    assert found.parts["hardware"] == pytest.approx((1000, 1500, 3000))
    busy = 0.3 + 0.7 * 2 / 3
    assert found.parts["energy"].value == pytest.approx(3 * 0.1 * busy * 3 * 8766 * 0.3)
    rented = machine.model_copy(update={"hourly_usd": figure(0.5)})
    assert fleet(run, 1, rented, Asked(100, None, 3, 0.3)).parts == {
        "rent": pytest.approx(tuple(count * 0.5 * 8766 * 3 for count in (2, 3, 6)))
    }


def test_what_does_not_fit() -> None:
    def figure(value: float) -> Figure:
        return Figure(value=value, source="s")

    work = Work(operations=100, precision="fp32", weight_bytes=3 * 10**9, read_bytes=1, written_bytes=0)
    model = Model((work,), 0, 1, 1.0)
    small = Hardware(name="m", peak_tops={"fp32": figure(1)}, memory_gb=figure(2))
    whole_numbers = Hardware(name="m", peak_tops={"int8": figure(1)})
    assert "3,000 MB of memory" in str(cannot(model, small))
    assert "int8 only" in str(cannot(model, whole_numbers))
    assert cannot(model, small.model_copy(update={"memory_gb": figure(4)})) is None
    assert "20 ms" in str(too_slow(Range(0.01, 0.02, 0.03), Asked(1, 0.015, 1, 0)))
