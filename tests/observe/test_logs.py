"""Logs: one JSON object a line, whatever stands in a value."""

import json
import logging
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.core.errors import HeadwayError, RequestError
from headway.observe.logs import logger, places
from headway.observe.requests import CURRENT, RequestRecord


def test_a_line_has_time_level_message_and_fields(log: Any) -> None:
    logger.info("model ready", extra={"fields": {"model": "digits", "level": "forged"}})
    line = json.loads(log.getvalue())
    assert line["message"] == "model ready"
    assert line["model"] == "digits"
    assert line["level"] == "info"
    assert line["time"].endswith("Z")


def test_an_error_carries_its_traceback_on_the_same_line(log: Any) -> None:
    try:
        raise ValueError("what\nwent wrong")
    except ValueError as error:
        logger.error("request failed", exc_info=error)
    (line,) = log.getvalue().splitlines()
    assert "ValueError: what\nwent wrong" in json.loads(line)["traceback"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_no_value_forges_a_line_or_moves_the_cursor(log: Any, text: str) -> None:
    log.seek(0)
    log.truncate()
    logger.log(logging.WARNING, "%s", text, extra={"fields": {"name": text + "\r\n\x1b[2J"}})
    written = log.getvalue()
    assert written.endswith("\n")
    assert not set(written[:-1]) & set("\r\n\x1b\x85\u2028")
    assert json.loads(written)["message"] == text


def test_a_huge_value_is_clipped(log: Any) -> None:
    logger.info("x" * 10**6, extra={"fields": {"path": "y" * 10**6, "traceback": "z" * 10**6}})
    (line,) = log.lines()
    assert line["path"] == "y" * 2000 + "... and 998000 characters"
    assert len(line["message"]) < 2100
    assert len(line["traceback"]) < 20_100
    assert len(log.getvalue()) < 30_000


def test_a_line_about_a_request_carries_its_id(log: Any) -> None:
    record = RequestRecord()
    token = CURRENT.set(record)
    logger.info("model loaded", extra={"fields": {"model": "digits", "request_id": "forged"}})
    CURRENT.reset(token)
    logger.info("stopped")
    about, other = log.lines()
    assert about["request_id"] == record.id
    assert "request_id" not in other


def test_places_tell_where_but_not_what_a_request_held() -> None:
    def decode() -> None:
        try:
            int("secret-1")
        except ValueError:
            raise RequestError("no input is called 'secret-2'") from None

    def run() -> None:
        try:
            decode()
        except RequestError as error:
            raise HeadwayError("the model failed") from error

    try:
        run()
    except HeadwayError as error:
        told = places(error)
    assert "HeadwayError: the model failed" in told
    assert "RequestError" in told
    assert "in decode" in told
    assert "secret-" not in told.replace('int("secret-1")', "").replace("called 'secret-2'", "")


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert places(one) == "ValueError\nKeyError\n"
