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
    request_timeout_s: float = Field(
        30, gt=0, le=86400, description="Seconds to read a request, and again to answer it."
    )
    header_timeout_s: float = Field(10, gt=0, le=3600, description="Seconds to read a request's header.")
    max_body_bytes: int = Field(
        64 << 20, ge=1, description="Bytes of a request's body, also once decompressed; or of a gRPC message."
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
    model_control: bool | None = Field(
        None,
        description="Whether callers may change models, settings and shared memory regions. Without it, they may where"
        " the server listens on a loopback address alone.",
    )
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
