"""Writes metrics as text, in Prometheus' own format or as OpenMetrics, whichever the scraper prefers.

The event loop writes it, and nobody is answered meanwhile, so that it takes about a third of what Prometheus' client
takes for the same text matters (docs/decisions/0029).

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/; the OpenMetrics 1.0 specification.
"""

from collections.abc import Iterable
from math import inf, isnan

from prometheus_client.core import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def content_type(accept: str) -> str:
    """What to write for a scraper that accepts this. It states what it prefers by order alone, as Prometheus does."""
    kinds = [part.split(";")[0].strip() for part in accept.lower().split(",")]
    return OPEN_METRICS if "application/openmetrics-text" in kinds else TEXT


def write(families: Iterable[Metric], kind: str = TEXT) -> bytes:
    """The text of `kind`, one of `TEXT` and `OPEN_METRICS`."""
    lines: list[str] = []
    for family in families:
        # The text format names a counter by its sample, OpenMetrics by what comes before `_total`.
        name = f"{family.name}_total" if family.type == "counter" and kind == TEXT else family.name
        lines.append(f"# HELP {name} {_escaped(family.documentation)}\n# TYPE {name} {family.type}\n")
        for sample in family.samples:
            value = _number(sample.value)
            if sample.labels:
                labels = ",".join([f'{label}="{_escaped(text)}"' for label, text in sorted(sample.labels.items())])
                lines.append(f"{sample.name}{{{labels}}} {value}\n")
            else:
                lines.append(f"{sample.name} {value}\n")
    if kind == OPEN_METRICS:
        lines.append("# EOF\n")
    return "".join(lines).encode()


def _escaped(text: str) -> str:
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text


def _number(value: float) -> str:
    value = float(value)  # it may be a bool or an integer
    if value in (inf, -inf):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if isnan(value) else repr(value)
