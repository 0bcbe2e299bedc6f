"""A run over time: operators one after the other, and the activations that are alive between them.

What is alive follows from who reads what last, so it is about what a run needs: a runtime may take more, for what it
pads, packs and keeps, and less where operators work in place.
"""

from typing import Any, NamedTuple

from headway.measure.profile import Profile


class Memory(NamedTuple):
    """Bytes of activations while each operator runs, counted.

    Attributes:
        alive: [operators], what was made and is still to be read, what it makes included.
        peak: the greatest of them.
        at: the name of the operator that runs then.
        weights: of all operators.
        uncounted: operators whose sizes are not known; they count as nothing.
    """

    alive: tuple[int, ...]
    peak: int
    at: str
    weights: int
    uncounted: int

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "activations_peak_bytes": self.peak,
            "at": self.at,
            "weight_bytes": self.weights,
            "uncounted_operators": self.uncounted,
            "activations_bytes": list(self.alive),
        }


def memory(profile: Profile) -> Memory:
    """The activations of a run over time."""
    layers = profile.layers
    last = {name: number for number, layer in enumerate(layers) for name in layer.inputs}
    sizes: dict[str, int] = {}
    alive = []
    for number, layer in enumerate(layers):
        if layer.work is not None and layer.outputs:
            each = layer.work.written_bytes // len(layer.outputs)
            sizes |= dict.fromkeys(layer.outputs, each)
        alive.append(sum(sizes.values()))
        sizes = {name: size for name, size in sizes.items() if last.get(name, len(layers)) > number}
    at = max(range(len(alive)), key=alive.__getitem__, default=0)
    return Memory(
        alive=tuple(alive),
        peak=max(alive, default=0),
        at=layers[at].name if layers else "",
        weights=sum(layer.work.weight_bytes for layer in layers if layer.work),
        uncounted=sum(layer.work is None for layer in layers),
    )


def chrome_trace(profile: Profile) -> dict[str, Any]:
    """The run in the Trace Event Format, which chrome://tracing and Perfetto open.

    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU: complete events (`X`) of the
    operators, their times in microseconds, and a counter (`C`) of the bytes of activations.
    """
    events: list[dict[str, Any]] = []
    at = 0.0
    for layer, alive in zip(profile.layers, memory(profile).alive, strict=True):
        about = layer.work.model_dump(mode="json") if layer.work else {}
        place = {"pid": 1, "tid": 1, "ts": at}
        events.append({"name": "activations", "ph": "C", **place, "args": {"bytes": alive}})
        span = {"name": layer.name, "cat": layer.kind, "ph": "X", "dur": layer.ms * 1000}
        events.append({**span, **place, "args": about})
        at += layer.ms * 1000
    if profile.outside_ms > 0:
        events.append({"name": "outside operators", "cat": "runtime", "ph": "X", "dur": profile.outside_ms * 1000,
                       "pid": 1, "tid": 1, "ts": at, "args": {}})  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms"}
