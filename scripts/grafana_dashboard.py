"""Writes docs/grafana.json, a dashboard for Grafana: rows of panels, and in each panel what Prometheus is asked."""

import json
from pathlib import Path
from typing import Any, NamedTuple

TARGET = Path(__file__).parents[1] / "docs" / "grafana.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
MODEL = '{model=~"$model"}'


class Panel(NamedTuple):
    """One picture: what is drawn (a legend for each query), in Grafana's name of the unit."""

    title: str
    unit: str
    queries: dict[str, str]


def rate(name: str, labels: str = "") -> str:
    """How much a counter rises a second."""
    return f"rate({name}{labels}[$__rate_interval])"


def mean(name: str, by: str = "") -> str:
    """Of what a model's histogram counted."""
    of, count = (f"sum{by} ({rate(f'headway_{name}_{part}', MODEL)})" for part in ("sum", "count"))
    return f"{of} / {count}"


def quantile(q: float, name: str, labels: str = "", by: str = "le") -> str:
    """Of what a histogram counted."""
    return f"histogram_quantile({q}, sum by ({by}) ({rate(f'headway_{name}_bucket', labels)}))"


LATENCY = "request_seconds", MODEL, "le, model"
STAGES = ("preprocess", "queue", "infer", "postprocess")
CPU = "process_cpu_seconds_total"
THREADS = "headway_thread_cpu_seconds_total"
ROWS: dict[str, list[Panel]] = {
    "Requests": [
        Panel(
            "By outcome", "reqps", {"{{outcome}}": f"sum by (outcome) ({rate('headway_requests_total', MODEL)}) > 0"}
        ),
        Panel("Refused before a model", "reqps", {"{{outcome}}": f"{rate('headway_refused_total')} > 0"}),
        Panel(
            "Answers",
            "reqps",
            {"{{status}}": rate("headway_http_responses_total"), "{{code}}": rate("headway_grpc_responses_total")},
        ),
        Panel("Under way", "short", {"requests": "headway_requests_in_flight"}),
        Panel("Queued rows", "short", {"{{model}}": f"headway_queued_rows{MODEL}"}),
        Panel("Ready", "bool_on_off", {"{{model}}:{{version}}": f"headway_model_ready{MODEL}"}),
    ],
    "Where the time goes": [
        Panel("Latency", "s", {f"{{{{model}}}} p{q * 100:g}": quantile(q, *LATENCY) for q in (0.5, 0.9, 0.99)}),
        Panel("Mean by stage", "s", {stage: mean(f"{stage}_seconds") for stage in STAGES}),
        Panel("Rows of a run", "short", {"{{model}}": mean("batch_rows", " by (model)")}),
    ],
    "The process": [
        Panel(
            "Cores in use",
            "short",
            {"{{role}}": rate(THREADS), "native threads": f"sum({rate(CPU)}) - sum({rate(THREADS)})"},
        ),
        Panel(
            "Memory",
            "bytes",
            {"resident": "process_resident_memory_bytes", "files of {{model}}": f"headway_model_file_bytes{MODEL}"},
        ),
        Panel("Event loop lag", "s", {"p99": quantile(0.99, "event_loop_lag_seconds")}),
        Panel("Open files and connections", "short", {"open": "process_open_fds", "limit": "process_max_fds"}),
        Panel("Garbage collections", "ops", {"generation {{generation}}": rate("python_gc_collections_total")}),
    ],
    "NVIDIA GPUs": [
        Panel("Busy", "percentunit", {"{{gpu_uuid}}": "nv_gpu_utilization"}),
        Panel(
            "Memory",
            "bytes",
            {"{{gpu_uuid}} used": "nv_gpu_memory_used_bytes", "{{gpu_uuid}}": "nv_gpu_memory_total_bytes"},
        ),
        Panel("Power", "watt", {"{{gpu_uuid}}": "nv_gpu_power_usage"}),
    ],
}


def panels() -> list[dict[str, Any]]:
    """Rows below one another, three panels wide."""
    found: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        found.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}})
        found += [drawn(one, {"x": n % 3 * 8, "y": top + 1 + n // 3 * 8, "w": 8, "h": 8}) for n, one in enumerate(row)]
        top += 1 + (len(row) + 2) // 3 * 8
    return [{"id": number, **one} for number, one in enumerate(found, start=1)]


def drawn(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    """A panel as Grafana has it."""
    queries = enumerate(panel.queries.items())
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [{"refId": chr(65 + n), "expr": query, "legendFormat": legend} for n, (legend, query) in queries],
    }


def dashboard() -> str:
    """The whole document, as Grafana imports it."""
    model = {
        "name": "model", "type": "query", "datasource": SOURCE, "query": "label_values(headway_model_ready, model)",
        "refresh": 2, "multi": True, "includeAll": True,
    }  # fmt: skip
    document = {
        "title": "Headway", "uid": "headway", "schemaVersion": 39, "refresh": "10s", "tags": ["headway"],
        "time": {"from": "now-30m", "to": "now"}, "panels": panels(),
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}, model]},
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(dashboard(), encoding="utf-8")
    print(f"wrote {TARGET}")
