"""Logs as JSON lines on stderr: one object a line, whatever a caller put into a name.

`logger.info("model ready", extra={"fields": {"model": "digits"}})` writes
`{"time": "2026-01-01T00:00:00.000Z", "level": "info", "message": "model ready", "model": "digits"}`, and with
`request_id` too where a request is being answered.

No line holds a header or a value that a request brought: what a caller may keep secret is not known here.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TextIO

from headway.core.errors import HeadwayError, RequestError
from headway.observe.requests import CURRENT

logger = logging.getLogger("headway")

_MOST_TEXT = 2000  # characters of one value; a caller may send megabytes
_MOST_TRACEBACK = 20_000


class JsonLines(logging.Formatter):
    """One JSON object a line. JSON escapes line breaks and control characters, so no value can forge a second line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {
            "time": when, "level": record.levelname.lower(), "message": clipped(record.getMessage()),
        }  # fmt: skip
        if (request := CURRENT.get()) is not None:
            line["request_id"] = request.id
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line |= {str(key): _plain(key, value) for key, value in fields.items() if key not in line}
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = clipped("".join(traceback.format_exception(*record.exc_info)), _MOST_TRACEBACK)
        return json.dumps(line, default=str)


def to_stderr(level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Send Headway's log to stderr as JSON lines. Returns the handler, for `logger.removeHandler`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler


def clipped(text: str, most: int = _MOST_TEXT) -> str:
    """The text, or its beginning and how many characters follow."""
    return text if len(text) <= most else f"{text[:most]}... and {len(text) - most} characters"


def places(error: BaseException) -> str:
    """Kinds and tracebacks of an error and of what caused it; messages only of our own failures.

    A runtime's message, Python's, and ours about a request may quote what the caller sent.
    """
    return "".join(_places(error))


def _places(error: BaseException | None) -> Iterator[str]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        safe = isinstance(error, HeadwayError) and not isinstance(error, RequestError)
        yield f"{type(error).__name__}: {error}\n" if safe else f"{type(error).__name__}\n"
        yield from traceback.format_tb(error.__traceback__)
        error = error.__cause__ or error.__context__


def _plain(key: object, value: object) -> object:
    if not isinstance(value, str):
        return value
    return clipped(value, _MOST_TRACEBACK if key == "traceback" else _MOST_TEXT)
