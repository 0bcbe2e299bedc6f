"""`headway serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.render import Json, emit, out

if TYPE_CHECKING:
    from headway.serve.server import Server


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BUNDLE_OR_NAME...",
            help="Bundles, or names in the registry: digits, digits:3, digits@production. Several models, and several"
            " versions of one, are served at once. With --control there may be none: they are loaded later.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="Port of the REST API; 0 takes any free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Port of the gRPC API; 0 takes any free one.")] = 8001,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="Answer over REST alone.")] = False,
    variant: Annotated[str | None, typer.Option(metavar="ID", help="Serve this variant; nothing is measured.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of one run; without it, 1 and the usable cores are tried.")
    ] = None,
    choose_seconds: Annotated[
        float, typer.Option(help="Seconds to measure a bundle's variants in, once on a machine; 0: do not.")
    ] = 1.0,
    control: Annotated[
        bool | None,
        typer.Option(
            "--control/--no-control",
            help="Let callers load and unload models and change settings; without it, they may where --host is a"
            " loopback address.",
        ),
    ] = None,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Let clients on this machine pass tensors in shared memory.")
    ] = False,
    cache_mb: Annotated[
        int,
        typer.Option(
            help="MB of memory for answers to inputs that come again; identical requests then also share a run."
            " 0: every request runs, as a measurement that repeats its inputs needs."
        ),
    ] = 0,
    batching: Annotated[
        str, typer.Option(metavar="adaptive|fixed", help="Whether batches wait for callers that are expected at once.")
    ] = "adaptive",
    latency_target_ms: Annotated[
        float | None,
        typer.Option(help="No batch waits where its answers would take longer.", show_default="the contract's p99_ms"),
    ] = None,
    public_key: Annotated[Path | None, typer.Option(help="PEM file of the only signer to accept.")] = None,
    trust_any: Annotated[bool, typer.Option("--trust-any", help="Accept any signer, if nothing was changed.")] = False,
    log_requests: Annotated[
        str, typer.Option(metavar="none|failed|all", help="Which requests get a line in the log.")
    ] = "failed",
    traces: Annotated[
        bool, typer.Option("--traces", help="Send OpenTelemetry traces, as the OTEL_* variables say.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve bundles over the Open Inference Protocol (REST and gRPC) until SIGTERM or Ctrl-C."""
    from headway.core.config import Source, validate
    from headway.core.errors import UsageError
    from headway.observe.logs import to_stderr
    from headway.serve.config import ServeConfig
    from headway.serve.server import Server

    if not models and not control:
        raise UsageError(
            "no bundle to serve",
            where="headway serve",
            remedy="Name one or more; or start with none and load them later: headway serve --control",
        )
    settings = {
        "host": host, "http_port": http_port, "grpc_port": None if no_grpc else grpc_port,
        "variant": variant, "threads": threads, "choose_seconds": choose_seconds,
        "model_control": control, "shared_memory": shared_memory,
        "cache_mb": cache_mb, "batching": batching, "latency_target_ms": latency_target_ms,
        "public_key": public_key, "trust_any": trust_any, "log_requests": log_requests, "traces": traces,
    }  # fmt: skip
    config = validate(ServeConfig, settings, Source("headway serve"))
    to_stderr()
    server = Server(models or (), config, on_ready=lambda ready: _announce(ready, as_json))
    server.run()


def _announce(server: "Server", as_json: bool) -> None:
    names = server.models
    if as_json:
        emit({"url": server.url, "grpc": server.grpc_address, "models": names})
        return
    calls = f" and grpc://{server.grpc_address}" if server.grpc_address else ""
    what, path = (", ".join(names), f"/v2/models/{names[0]}") if names else ("no model yet", "/v2/models")
    out().print(
        f"serving {what} at {server.url}{calls}    try: curl {server.url}{path}",
        markup=False,
        soft_wrap=True,
    )
