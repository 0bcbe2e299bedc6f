"""The `headway` command: its groups, its exit codes, and how an error looks."""

import signal
import sys
from typing import Annotated

import typer

from headway.cli import (
    advise,
    bundle,
    cache,
    convert,
    doctor,
    export,
    inspect,
    leak,
    pack,
    parity,
    profile,
    registry,
    runs,
    runtimes,
    serve,
    ship,
    train,
)
from headway.cli.render import document, emit, err, plain
from headway.core.errors import HeadwayError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="headway",
    help="From a trained model to a service its owner can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(ship.ship)
app.command()(train.train)
app.command()(pack.pack)
app.command()(profile.profile)
app.command()(advise.advise)
app.command()(serve.serve)
app.add_typer(bundle.app, name="bundle")
app.add_typer(registry.app, name="registry")
app.add_typer(runs.app, name="runs")
app.add_typer(cache.app, name="cache")
app.command()(convert.convert)
app.command()(inspect.inspect)
app.command()(doctor.doctor)
app.command()(leak.leak)
app.command()(runtimes.runtimes)
app.command()(parity.parity)
app.command()(export.export)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """From a trained model to a service its owner can trust."""
    if version:
        from headway import __version__

        typer.echo(f"headway {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 bug, 2 usage, 3 refused by a gate, 4 environment, 130 interrupted."""
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, _terminate)
    if "--json" in sys.argv:
        document.keep()
    try:
        app(standalone_mode=True)
    except HeadwayError as error:
        err().print(f"[bold red]error[/bold red] {_escape(str(error))}", soft_wrap=True)
        _fail({"error": error.message, "where": error.where, "remedy": error.remedy})
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as left:
        code = INTERRUPTED if isinstance(left, KeyboardInterrupt) else left.code  # typer turns the one into the other
        if code == INTERRUPTED:
            err().print("interrupted; what was saved is intact, and the same command resumes")
            _fail({"error": "interrupted"})
        elif code:
            told = getattr(left.__context__, "format_message", None)  # of typer's own finding, which it has printed
            _fail({"error": told() if told else "wrong usage"})
        sys.exit(code)
    except Exception as error:
        _fail({"error": f"a bug in Headway: {type(error).__name__}: {error}"})
        raise


def _fail(content: dict[str, str | None]) -> None:
    """Under `--json` a failure is a document too, unless the command has printed its own."""
    if document.stream is not None and not document.printed:
        emit(content)


def _terminate(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(plain(text))
