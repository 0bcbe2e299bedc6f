"""Every setting of the server."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from headway.bundles.manifest import Contract
from headway.core.config import Config
from headway.processing.stage import Limits
from headway.serve.batcher import BatchLimits
from headway.serve.lane import LEVELS

CHOOSE_SECONDS = 1.0


class ServeConfig(Config):
    """Settings of `headway.Server` and `headway serve`."""

    host: str = Field("127.0.0.1", description="Address to listen on. The default is reached from this machine alone.")
    http_port: int = Field(8000, ge=0, le=65535, description="Port of the REST API; 0 takes any free one.")
    grpc_port: int | None = Field(
        8001, ge=0, le=65535, description="Port of the gRPC API; 0 takes any free one, null leaves it off."
    )
    variant: str | None = Field(
        None, description="Id of the variant to serve, of every bundle. Without it, the best one here is chosen."
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of one run. Without it, 1 and the usable cores are tried."
    )
    choose_seconds: float = Field(
        CHOOSE_SECONDS,
        ge=0,
        le=600,
        description="Seconds to measure the variants of a bundle in, about, when it is served for the first time on a"
        " machine: readiness waits for it. The choice is kept for later starts. 0 measures nothing and serves the"
        " manifest's choice.",
    )
    parallel_runs: int = Field(
        1, ge=1, le=64, description="Runs of one model at a time, where its runtime allows more than one."
    )
    max_batch_rows: int = Field(32, ge=1, description="Rows of a batch; a larger request runs alone.")
    batch_window_ms: float = Field(
        10,
        ge=0,
        description="How long the oldest row waits for a further run to start beside one under way. An idle model"
        " never waits; with one run at a time the run under way is the only wait.",
    )
    batching: Literal["fixed", "adaptive"] = Field(
        "adaptive",
        description="fixed: a batch starts as soon as the model is free. adaptive: it may wait for callers about to"
        " ask again, where that saves more than it costs.",
    )
    brief_run_ms: float = Field(
        0.4,
        ge=0,
        le=10,
        description="A lone request whose run is known to be shorter is run by the event loop itself: to wake a thread"
        " and be woken by it costs more. 0: every run has a thread.",
    )
    latency_target_ms: float | None = Field(
        None,
        gt=0,
        description="No batch waits where its answers would take longer. Without it, the contract's p99_ms.",
    )
    max_padding: float = Field(
        0.25,
        ge=0,
        le=10,
        description="What padding may add to a batch of different lengths, as a share of its real elements, where the"
        " bundle declares padding.",
    )
    default_priority: int = Field(
        5, ge=1, le=LEVELS, description=f"Of a request that asks for none. 1 goes first, {LEVELS} last."
    )
    queue_rows: int = Field(
        1024, ge=1, description="Rows that may wait, past it requests are refused with 503; and rows of one request."
    )
    processing_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of a model's processing (pictures, texts), beside its runs. Without it, the usable cores.",
    )
    max_pixels: int = Field(
        Limits.max_pixels, ge=1, le=178_000_000, description="Pixels of a picture that processing takes."
    )
    max_text_bytes: int = Field(Limits.max_text_bytes, ge=1, description="Bytes of a text that processing takes.")
    cache_mb: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="MB of memory for answers, of all models together. An input that comes again is then answered from"
        " memory, and one that comes while it is being answered joins that run; each tenant (Authorization) has its own"
        " answers. Where this does not pay, it switches itself off. 0, the default, is neither: every request runs, so"
        " that a measurement that repeats its inputs measures the model.",
    )
    request_timeout_s: float = Field(
        30, gt=0, le=86400, description="Seconds to read a request, and again to answer it."
    )
    header_timeout_s: float = Field(10, gt=0, le=3600, description="Seconds to read a request's header.")
    max_body_bytes: int = Field(
        64 << 20, ge=1, description="Bytes of a request's body, also once decompressed; or of a gRPC message."
    )
    max_held_bytes: int = Field(
        1 << 30, ge=1, description="Bytes of HTTP bodies of more than 1 MB that are held at a time; more are refused."
    )
    max_json_bytes: int = Field(16 << 20, ge=1, description="Bytes of JSON in it; binary tensors do not count.")
    max_json_depth: int = Field(64, ge=4, le=500, description="Levels of lists and objects in that JSON.")
    max_tensors: int = Field(1024, ge=1, description="Inputs, and outputs, of one request.")
    max_connections: int = Field(
        1024,
        ge=1,
        description="HTTP connections at a time, and gRPC ones; where there are nearly as many, idle ones are closed."
        " Also gRPC calls at a time; more are refused.",
    )
    max_streams: int = Field(
        256, ge=1, description="gRPC calls that stay open (streams of requests, watchers of health); more are refused."
    )
    stream_requests: int = Field(
        32, ge=1, description="Requests of one gRPC stream that are under way; more wait to be read."
    )
    drain_s: float = Field(20, ge=0, description="Seconds that accepted requests have to finish at shutdown.")
    log_requests: Literal["none", "failed", "all"] = Field(
        "failed", description="Which requests get a line in the log. Of those that fail, at most 100 lines a second."
    )
    traces: bool = Field(
        False, description="Send OpenTelemetry traces, as the OTEL_* environment variables say; needs the extra [otel]."
    )
    model_control: bool | None = Field(
        None,
        description="Whether callers may load and unload models, and change settings and shared memory regions. Without"
        " it, they may where the server listens on a loopback address alone.",
    )
    max_versions: int = Field(8, ge=1, le=1000, description="Versions of one model that are served at once.")
    load_timeout_s: float = Field(600, gt=0, le=86400, description="Seconds to prove a bundle in that is loaded.")
    shared_memory: bool = Field(False, description="Whether clients on this machine may pass tensors in shared memory.")
    shared_memory_prefix: str = Field(
        "headway",
        max_length=100,
        description="What the keys of shared memory must begin with, for others' memory is not for clients to name;"
        " empty allows any key.",
    )
    shared_memory_regions: int = Field(64, ge=1, le=4096, description="Regions of shared memory at a time.")
    public_key: Path | None = Field(None, description="PEM file of the only signer whose bundles are served.")
    trust_any: bool = Field(False, description="Serve a bundle whoever signed it, if nothing in it was changed.")

    def processing_limits(self) -> Limits:
        """What processing takes of one picture or text."""
        return Limits(self.max_pixels, self.max_text_bytes)

    def batch_limits(self, contract: Contract, *, thread_safe: bool) -> BatchLimits:
        """How far batching may go for a bundle with this contract and a session that is thread-safe, or is not."""
        target_ms = self.latency_target_ms or contract.p99_ms
        return BatchLimits(
            max_rows=self.max_batch_rows,
            window=self.batch_window_ms / 1000,
            queue_rows=self.queue_rows,
            parallel_runs=self.parallel_runs if thread_safe else 1,
            max_padding=self.max_padding,
            default_priority=self.default_priority,
            adaptive=self.batching == "adaptive",
            latency_target=target_ms / 1000 if target_ms else None,
            brief=self.brief_run_ms / 1000,
        )
