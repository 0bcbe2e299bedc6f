"""Log and trace settings: what a change does, and what is refused. Calls over the wires: `test_tritonclient.py`."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from headway.core.errors import RequestError
from headway.observe.logs import logger
from headway.observe.traces import Sampling
from headway.serve.errors import UnsupportedError
from headway.serve.settings import TraceSettings, change_log, log_settings


@pytest.fixture(autouse=True)
def _level_as_before() -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({"log_verbose_level": 1}, logging.DEBUG),
        ({"log_verbose_level": 9, "log_info": True}, logging.DEBUG),
        ({}, logging.INFO),
        ({"log_info": False}, logging.WARNING),
        ({"log_info": False, "log_warning": False}, logging.ERROR),
        ({"log_info": False, "log_warning": False, "log_error": False}, logging.CRITICAL),
        ({"log_format": "ISO8601", "log_file": ""}, logging.INFO),
    ],
)
def test_the_loggers_level_follows(given: dict[str, Any], level: int) -> None:
    change_log(given)
    assert logger.level == level
    told = log_settings()
    assert (told["log_verbose_level"] > 0) == (level == logging.DEBUG)
    assert told["log_info"] == (level <= logging.INFO)
    assert told["log_error"] == (level <= logging.ERROR)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"log_verbose_level": -1}, RequestError, "whole number"),
        ({"log_verbose_level": True}, RequestError, "whole number"),
        ({"log_info": "yes"}, RequestError, "log_info"),
        ({"log_info": 1}, RequestError, "log_info"),
        ({"log_colour": True}, RequestError, "no log setting 'log_colour'"),
        ({"log_file": "/etc/passwd"}, UnsupportedError, "log_file: stays ''"),
        ({"log_format": "default"}, UnsupportedError, "log_format"),
        ({"log_warning": False}, UnsupportedError, "more serious"),
        ({"log_info": False, "log_verbose_level": 1}, UnsupportedError, "more serious"),
    ],
)
def test_a_wrong_log_setting_changes_nothing(given: dict[str, Any], error: type[Exception], text: str) -> None:
    before = log_settings()
    with pytest.raises(error, match=text.partition(": ")[2] or text):
        change_log({"log_error": True, **given})
    assert log_settings() == before


def test_trace_settings_are_those_of_whoever_traces() -> None:
    sampled = Sampling(on=False)
    settings = TraceSettings(sampled)
    settings.change({"trace_level": ["TIMESTAMPS"], "trace_rate": "100", "trace_count": "5"})
    assert sampled == Sampling(on=True, rate=100, count=5)
    assert settings.values() == {
        "trace_level": ["TIMESTAMPS"], "trace_rate": "100", "trace_count": "5", "trace_file": "", "log_frequency": "0",
    }  # fmt: skip
    settings.change({"trace_rate": ["7"]})
    assert sampled == Sampling(on=True, rate=7, count=5)
    settings.change({"trace_rate": None, "trace_count": None, "trace_level": "OFF"})
    assert sampled == Sampling(on=False)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"trace_rate": "0"}, RequestError, "too small"),
        ({"trace_rate": "-1"}, RequestError, "too small"),
        ({"trace_count": "-2"}, RequestError, "too small"),
        ({"trace_rate": "many"}, RequestError, "whole number"),
        ({"trace_rate": "٣"}, RequestError, "whole number"),
        ({"trace_rate": "9" * 4000}, RequestError, "whole number"),
        ({"trace_rate": 7}, RequestError, "must be text"),
        ({"trace_level": []}, RequestError, "must be text"),
        ({"trace_level": ["LOUD"]}, RequestError, "no level"),
        ({"trace_level": ["TENSORS"]}, UnsupportedError, "callers' own"),
        ({"trace_file": "/etc/passwd"}, UnsupportedError, "stays"),
        ({"trace_mode": "opentelemetry"}, RequestError, "no trace setting"),
    ],
)
def test_a_wrong_trace_setting_changes_nothing(given: dict[str, Any], error: type[Exception], text: str) -> None:
    sampled = Sampling(on=False)
    settings = TraceSettings(sampled)
    with pytest.raises(error, match=text):
        settings.change({"trace_count": "9", **given})
    assert sampled == Sampling(on=False)


def test_where_nothing_traces_nothing_can_be_switched_on() -> None:
    settings = TraceSettings(None)
    settings.change({"trace_level": ["OFF"]})
    with pytest.raises(UnsupportedError, match="does not trace"):
        settings.change({"trace_level": ["TIMESTAMPS"]})
