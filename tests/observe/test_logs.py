"""Logs: one JSON object a line, whatever stands in a value."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.observe.logs import logger, to_stderr


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    written = io.StringIO()
    level, propagate = logger.level, logger.propagate
    handler = to_stderr(stream=written)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


def test_a_line_has_time_level_message_and_fields(stream: io.StringIO) -> None:
    logger.info("model ready", extra={"fields": {"model": "digits", "level": "forged"}})
    line = json.loads(stream.getvalue())
    assert line["message"] == "model ready"
    assert line["model"] == "digits"
    assert line["level"] == "info"
    assert line["time"].endswith("Z")


def test_an_error_carries_its_traceback_on_the_same_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("what\nwent wrong")
    except ValueError as error:
        logger.error("request failed", exc_info=error)
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: what\nwent wrong" in json.loads(line)["traceback"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_no_value_forges_a_line_or_moves_the_cursor(stream: io.StringIO, text: str) -> None:
    stream.seek(0)
    stream.truncate()
    logger.log(logging.WARNING, "%s", text, extra={"fields": {"name": text + "\r\n\x1b[2J"}})
    written = stream.getvalue()
    assert written.endswith("\n")
    assert not set(written[:-1]) & set("\r\n\x1b\x85\u2028")
    assert json.loads(written)["message"] == text
