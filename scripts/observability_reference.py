"""Writes the tables of docs/observability.md from the metrics that the code has."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from prometheus_client.core import Metric

from headway.observe.accelerators import Accelerators
from headway.observe.metrics import OUTCOMES, Metrics

PAGE = Path(__file__).parents[1] / "docs" / "observability.md"

# Of the process itself: prometheus_client's names, for which it has no words.
STANDARD = {
    "process_virtual_memory_bytes": "Virtual memory.",
    "process_resident_memory_bytes": "Resident memory.",
    "process_start_time_seconds": "When the process started, in seconds since the epoch.",
    "process_cpu_seconds_total": "CPU time, user and system.",
    "process_open_fds": "Open file descriptors: each connection is one.",
    "process_max_fds": "How many there may be.",
}


def example() -> list[Metric]:
    """Every metric, with a sample at least of each."""
    metrics = Metrics()
    model = metrics.model("digits", "1")
    model.pre.add(0.001)
    model.post.add(0.001)
    metrics.refused("wrong")
    metrics.responded(200)
    metrics.replied("OK")
    metrics.accelerators = Accelerators(_Nvml())
    metrics.accelerators.read()
    return list(metrics.families())


class _Nvml:
    """One GPU."""

    NVMLError = OSError
    nvmlDeviceGetCount = staticmethod(lambda: 1)  # noqa: N815
    nvmlDeviceGetHandleByIndex = nvmlDeviceGetUUID = staticmethod(str)  # noqa: N815
    nvmlDeviceGetUtilizationRates = staticmethod(lambda _: SimpleNamespace(gpu=0))  # noqa: N815
    nvmlDeviceGetPowerUsage = staticmethod(int)  # noqa: N815
    nvmlDeviceGetMemoryInfo = staticmethod(lambda _: SimpleNamespace(total=0, used=0))  # noqa: N815


def metrics_table() -> Iterator[str]:
    """One line a metric."""
    yield "| metric | type | labels | is |\n|---|---|---|---|\n"
    for family in example():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
        text = STANDARD.get(name, f"{family.documentation.removesuffix('.')}.")
        yield f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {text} |\n"


def outcomes_table() -> Iterator[str]:
    """One line an outcome."""
    yield "| outcome | means |\n|---|---|\n"
    yield from (f"| `{outcome}` | {text} |\n" for outcome, text in OUTCOMES.items())


def page() -> str:
    """The page as it stands, with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in {"metrics": metrics_table(), "outcomes": outcomes_table()}.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        assert found, f"{PAGE} has no {begin}"
        text = before + begin + "".join(lines) + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
