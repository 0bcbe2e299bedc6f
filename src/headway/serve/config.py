"""Every setting of the server."""

from pathlib import Path

from pydantic import Field

from headway.core.config import Config

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
    queue_rows: int = Field(
        1024, ge=1, description="Rows that may wait, past it requests are refused with 503; and rows of one request."
    )
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
    max_body_bytes: int = Field(64 << 20, ge=1, description="Bytes of a request's body, or of a gRPC message.")
    max_json_bytes: int = Field(16 << 20, ge=1, description="Bytes of JSON in it; binary tensors do not count.")
    max_connections: int = Field(
        1024,
        ge=1,
        description="HTTP connections at a time, more wait to be accepted; gRPC calls at a time, more are refused.",
    )
    drain_s: float = Field(20, ge=0, description="Seconds that accepted requests have to finish at shutdown.")
    public_key: Path | None = Field(None, description="PEM file of the only signer whose bundles are served.")
    trust_any: bool = Field(False, description="Serve a bundle whoever signed it, if nothing in it was changed.")
