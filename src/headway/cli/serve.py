"""`headway serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.render import Json, emit, out
from headway.core.errors import UsageError

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
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings (docs/serving.md); options here win.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="SETTING=VALUE, wins over the file; may be given often.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of the REST API; 0 takes any free one.", show_default="8000")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the gRPC API; 0 takes any free one.", show_default="8001")
    ] = None,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="Answer over REST alone.")] = False,
    variant: Annotated[
        str | None, typer.Option(metavar="ID", help="Serve this variant; nothing is measured.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of one run.", show_default="1 and the usable cores are tried"),
    ] = None,
    choose_seconds: Annotated[
        float | None,
        typer.Option(help="Measure a bundle's variants so long, once on a machine; 0: do not.", show_default="1"),
    ] = None,
    control: Annotated[
        bool | None,
        typer.Option(
            "--control/--no-control",
            help="Let callers load and unload models and change settings.",
            show_default="where --host is a loopback address",
        ),
    ] = None,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Let clients on this machine pass tensors in shared memory.")
    ] = False,
    cache_mb: Annotated[
        int | None,
        typer.Option(
            help="MB of memory for answers to inputs that come again; identical requests then also share a run.",
            show_default="0: every request runs",
        ),
    ] = None,
    batching: Annotated[
        str | None,
        typer.Option(
            metavar="adaptive|fixed",
            help="Whether batches wait for callers that are expected at once.",
            show_default="adaptive",
        ),
    ] = None,
    latency_target_ms: Annotated[
        float | None,
        typer.Option(help="No batch waits where its answers would take longer.", show_default="the contract's p99_ms"),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the only signer to accept.", show_default=False)
    ] = None,
    trust_any: Annotated[bool, typer.Option("--trust-any", help="Accept any signer, if nothing was changed.")] = False,
    log_requests: Annotated[
        str | None,
        typer.Option(metavar="none|failed|all", help="Which requests get a line in the log.", show_default="failed"),
    ] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="Send OpenTelemetry traces, as the OTEL_* variables say.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve bundles over the Open Inference Protocol (REST and gRPC) until SIGTERM or Ctrl-C."""
    from headway.core.config import Source, apply, read_yaml, validate
    from headway.observe.logs import to_stderr
    from headway.serve.config import ServeConfig
    from headway.serve.server import Server

    data, source = read_yaml(config) if config is not None else ({}, Source("headway serve"))
    apply(settings or (), data, source)
    options = {
        "host": host, "http_port": http_port, "grpc_port": grpc_port, "variant": variant, "threads": threads,
        "choose_seconds": choose_seconds, "model_control": control, "shared_memory": shared_memory or None,
        "cache_mb": cache_mb, "batching": batching, "latency_target_ms": latency_target_ms, "public_key": public_key,
        "trust_any": trust_any or None, "log_requests": log_requests, "traces": traces or None,
    }  # fmt: skip
    data |= {name: value for name, value in options.items() if value is not None}
    if no_grpc:
        data["grpc_port"] = None
    checked = validate(ServeConfig, data, source)
    if not models and not checked.model_control:
        raise UsageError(
            "no bundle to serve",
            where="headway serve",
            remedy="Name one or more; or start with none and load them later: headway serve --control",
        )
    to_stderr()
    server = Server(models or (), checked, on_ready=lambda ready: _announce(ready, as_json))
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
