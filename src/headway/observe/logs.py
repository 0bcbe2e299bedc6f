"""Logs as JSON lines on stderr: one object a line, whatever a caller put into a name.

`logger.info("model ready", extra={"fields": {"model": "digits"}})` writes
`{"time": "2026-01-01T00:00:00.000Z", "level": "info", "message": "model ready", "model": "digits"}`.
"""

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from secrets import token_hex
from typing import TextIO

logger = logging.getLogger("headway")

_process = token_hex(6)
_serial = count(1)


class JsonLines(logging.Formatter):
    """One JSON object a line. JSON escapes line breaks and control characters, so no value can forge a second line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line |= {str(key): value for key, value in fields.items() if key not in line}
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def to_stderr(level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Send Headway's log to stderr as JSON lines. Returns the handler, for `logger.removeHandler`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler


def request_id() -> str:
    """An id that no other request of this or another process has."""
    return f"{_process}-{next(_serial):x}"
