"""What is alive while operators run."""

from headway.measure.count import Work
from headway.measure.profile import Layer, Profile
from headway.measure.timeline import chrome_trace, memory


def layer(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], written: int) -> Layer:
    work = Work(operations=1, precision="fp32", weight_bytes=7, read_bytes=0, written_bytes=written)
    return Layer(name=name, kind="Op", inputs=inputs, outputs=outputs, ms=1.0, work=work)


def test_a_tensor_lives_until_it_was_read_last() -> None:
    layers = (
        layer("a", ("x",), ("a",), 100),
        layer("b", ("a",), ("b",), 10),
        layer("c", ("b",), ("c",), 10),
        layer("sum", ("a", "c"), ("y",), 100),  # a residual: the first is held till here
        layer("last", ("y",), ("z",), 1),
    )
    profile = Profile(layers=layers, ms=6.0, outside_ms=1.0, recorded_ms=6.0, taken_off_ms=0.0, rows=1, threads=1)
    found = memory(profile)
    assert found.alive == (100, 110, 120, 210, 101)
    assert (found.peak, found.at, found.weights, found.uncounted) == (210, "sum", 35, 0)
    assert sum(event.get("dur", 0) for event in chrome_trace(profile)["traceEvents"]) == 6000


def test_what_is_not_counted_is_told() -> None:
    unknown = Layer(name="a", kind="Op", inputs=("x",), outputs=("a",), ms=1.0)
    profile = Profile(layers=(unknown,), ms=1.0, outside_ms=0.0, recorded_ms=1.0, taken_off_ms=0.0, rows=1, threads=1)
    assert memory(profile).uncounted == 1
    assert memory(profile).peak == 0
