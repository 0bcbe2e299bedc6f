"""What commands print: one JSON document on stdout where asked, everything for people on stderr or as a table."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from headway.core.progress import Bar

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; everything else on stderr.")]


@cache
def err() -> "Console":
    """The console for people: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@cache
def out() -> "Console":
    """The console for results: stdout."""
    from rich.console import Console

    # A file or a pipe has no width, and rich would wrap tables for one of 80 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


class _Document:
    """Where the one JSON document of a `--json` command goes, and whether it went.

    `keep` sends everything else that is written to stdout to stderr: what a user's task prints, and what child
    processes and C code write, which know nothing of Python's `sys.stdout`.
    """

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.printed = False

    def keep(self) -> None:
        sys.stdout.flush()
        self.stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)


document = _Document()


def emit(content: Any) -> None:
    """Print the one JSON document of a `--json` command: for a reader on many lines, for a program on one."""
    stream = document.stream or sys.stdout
    indent = 2 if stream.isatty() else None
    stream.write(json.dumps(content, indent=indent, allow_nan=False) + "\n")
    stream.flush()
    document.printed = True


def plain(text: object) -> str:
    """Text that only shows: control characters, which can rewrite a terminal, are spelt out, but for line ends."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; cells are plain text, never markup."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, title_justify="left", show_header=any(columns), show_edge=False, pad_edge=False)
    for column in columns:
        drawn.add_column(column)
    for row in rows:
        drawn.add_row(*(Text(plain(cell)) for cell in row))
    out().print(drawn)


class Bars:
    """Draws progress on stderr, with an ETA; without a terminal it prints a line when a piece of work ends."""

    @contextmanager
    def work(self, title: str, total: float) -> Iterator[Bar]:
        """Draw one piece of work of `total` units."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = err()
        if not console.is_terminal:
            yield _Quiet()
            self.say(f"{title}: done")
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as progress:
            yield _RichBar(progress, progress.add_task(title, total=total, note=""))

    def say(self, text: str) -> None:
        """A line that stays."""
        err().print(text, markup=False)


class _Quiet:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Draw nothing: there is no terminal."""


class _RichBar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Move the bar and show the note beside it."""
        self._progress.update(self._task, advance=amount, **({"note": note} if note else {}))
