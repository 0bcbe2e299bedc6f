"""What a server says of itself and its models, as documents that every wire sends: one source, so that they agree.

Their shape is the JSON form of the messages in `proto/inference.proto`, after Triton's
`docs/protocol/extension_{model_configuration,statistics,model_repository}.md`. Counts are integers and times
nanoseconds; `perf_analyzer` fails where a field is missing.
"""

from collections.abc import Sequence
from typing import Any

from headway.core.tensors import TensorSpec
from headway.observe.metrics import ModelMetrics
from headway.serve.dataplane import DataPlane
from headway.serve.served_model import ServedModel

Document = dict[str, Any]

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
)


def server(more: Sequence[str] = ()) -> Document:
    """Server metadata, with `more` extensions that are on."""
    from headway import __version__

    return {"name": "headway", "version": __version__, "extensions": [*EXTENSIONS, *more]}


def config(model: ServedModel) -> Document:
    """A model's configuration. `max_batch_size` is 0 where its requests share no runs."""
    batched = model.max_batch_rows > 0

    def tensor(spec: TensorSpec) -> Document:
        kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
        return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape[batched:])}

    document: Document = {
        "name": model.name,
        "platform": model.platform,
        "backend": model.variant.runtime,
        "max_batch_size": model.max_batch_rows,
        "input": [tensor(spec) for spec in model.inputs],
        "output": [tensor(spec) for spec in model.outputs],
        "instance_group": [{"name": model.name, "kind": "KIND_CPU", "count": model.limits.parallel_runs}],
        "parameters": {
            "variant": {"string_value": model.variant.id},
            "precision": {"string_value": model.variant.precision},
            "batching": {"string_value": "adaptive" if model.limits.adaptive else "fixed"},
        },
    }
    if model.padding is not None:
        said = "on" if model.padding else "off: the bundle's claim does not hold here"
        document["parameters"]["padding"] = {"string_value": said}
    if batched:
        window = round(model.limits.window * 1e6) if model.limits.parallel_runs > 1 else 0
        document["dynamic_batching"] = {"preferred_batch_size": [], "max_queue_delay_microseconds": window}
    return document


def statistics(plane: DataPlane, name: str = "", version: str = "") -> Document:
    """Statistics of one version, of every version of one model, or of all. Raises `NotFoundError`."""
    return {"model_stats": [_statistics(model) for model in plane.served(name, version)]}


def index(plane: DataPlane, *, ready: bool = False) -> list[Document]:
    """Every version of every model, or only those that are ready. A version that is not known yet is left out."""
    rows: list[Document] = []
    for model in plane.served():
        usable = model.ready and not plane.draining
        rows.append(_row(model.name, model.version, "READY" if usable else "UNAVAILABLE", ""))
    for name, versions in plane.states.items():
        rows += [_row(name, version, state.state, state.reason) for version, state in versions.items()]
    return [row for row in rows if row["state"] == "READY" or not ready]


def _row(name: str, version: str, state: str, reason: str) -> Document:
    return {"name": name, **({"version": version} if version else {}), "state": state, "reason": reason}


def _statistics(model: ServedModel) -> Document:
    seen: ModelMetrics = model.metrics
    hits, hit_seconds, misses, miss_seconds = _shared(seen)
    good = seen.outcomes["ok"]
    requests = sum(seen.queue.counts)
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": seen.last_run_ms,
        "inference_count": round(seen.batch_rows.total),
        "execution_count": sum(seen.infer.counts),
        "inference_stats": {
            "success": _duration(good, seen.ok_seconds),
            "fail": _duration(sum(seen.outcomes.values()) - good, seen.whole.total - seen.ok_seconds),
            "queue": _duration(requests + hits, seen.queue.total),  # Triton's requests queue before they are looked up
            "compute_input": _duration(requests, seen.pre.total),  # putting a batch together is timed with its run
            "compute_infer": _duration(requests, seen.infer_seconds),
            "compute_output": _duration(requests, seen.post.total),
            "cache_hit": _duration(hits, hit_seconds),
            "cache_miss": _duration(misses, miss_seconds),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(count, 0),
                "compute_infer": _duration(count, seconds),
                "compute_output": _duration(count, 0),
            }
            for rows, (count, seconds) in sorted(seen.runs.items())
        ],
    }


def _shared(seen: ModelMetrics) -> tuple[int, float, int, float]:
    """Requests that needed no run of their own, of those that were looked up; the rest; and the seconds that each took.

    A request that is not found at one boundary is looked up at the next: it missed only where it missed at the last.
    """
    caches = list(seen.caches.values())
    hits = sum(counts.hits + counts.coalesced for counts in caches)
    misses = caches[-1].misses if caches else 0
    return hits, sum(c.hit_seconds for c in caches), misses, sum(c.miss_seconds for c in caches)


def _duration(count: int, seconds: float) -> Document:
    return {"count": count, "ns": max(round(seconds * 1e9), 0)}
