"""Settings that callers may read and change while the server runs: of its log, and of traces.

Sources: Triton `docs/protocol/extension_{logging,trace}.md`. A change is a control call: see `control.py`.
"""

import logging
from collections.abc import Mapping
from typing import Any

from headway.core.errors import RequestError
from headway.observe.logs import logger
from headway.observe.traces import Sampling
from headway.serve.errors import UnsupportedError
from headway.serve.fields import is_count

_FORMAT = "ISO8601"  # JSON lines whose times are so
_LEVELS = (("log_info", logging.INFO), ("log_warning", logging.WARNING), ("log_error", logging.ERROR))


def log_settings() -> dict[str, Any]:
    """The log's settings. They are read from Headway's logger, which is one for the whole process."""
    level = logger.getEffectiveLevel()
    flags = {name: level <= least for name, least in _LEVELS}
    verbose = 1 if level <= logging.DEBUG else 0
    return {"log_file": "", **flags, "log_verbose_level": verbose, "log_format": _FORMAT}


def change_log(given: Mapping[str, object]) -> None:
    """Set the level of Headway's logger from those settings that are given; the others stay.

    Raises:
        RequestError: an unknown setting or a wrong value; nothing was changed.
        UnsupportedError: another file or format, or a level without those above it.
    """
    now = log_settings()
    for name, value in given.items():
        if name not in now:
            raise RequestError(f"there is no log setting {name[:100]!r}", remedy=f"There are: {', '.join(now)}.")
        if name == "log_verbose_level":
            if not is_count(value):
                raise RequestError("must be a whole number from 0", where=name)
        elif type(value) is not type(now[name]):
            raise RequestError(f"must be of the kind of {now[name]!r}", where=name)
        elif isinstance(value, str) and value != now[name]:
            raise UnsupportedError(f"stays {now[name]!r}", where=name)  # a file's name would let callers write anywhere
    wanted = {**now, **given}
    shown = [bool(wanted["log_verbose_level"]), *(wanted[name] for name, _ in _LEVELS)]
    if shown != sorted(shown):
        raise UnsupportedError(
            "a level is shown with every more serious one", remedy="Switch the less serious ones off as well."
        )
    levels = (logging.DEBUG, *(level for _, level in _LEVELS))
    logger.setLevel(next((level for level, on in zip(levels, shown, strict=True) if on), logging.CRITICAL))


_UNCHANGING = {"trace_file": "", "log_frequency": "0"}
_LEVEL, _RATE, _COUNT = "trace_level", "trace_rate", "trace_count"


class TraceSettings:
    """The settings of traces. They are for all models: whether to trace is decided before a request's model is known.

    Args:
        sampling: what they are read from and written to; None where nothing traces.
    """

    def __init__(self, sampling: Sampling | None) -> None:
        self.sampling = sampling

    def values(self) -> dict[str, Any]:
        """Every setting as text, or a list of texts."""
        now = self.sampling
        on, rate, count = (now.on, now.rate, now.count) if now else (False, 1, -1)
        return {_LEVEL: ["TIMESTAMPS" if on else "OFF"], _RATE: str(rate), _COUNT: str(count), **_UNCHANGING}

    def change(self, given: Mapping[str, object]) -> None:
        """Change the settings that are given; None brings one back to where every server starts.

        Raises:
            RequestError: an unknown setting or a wrong value; nothing was changed.
            UnsupportedError: what the server does not do, which is all of it where nothing traces.
        """
        now = self.values()
        wanted = {name: _trace_setting(name, value, now) for name, value in given.items()}
        if {**now, **wanted} == now:
            return
        if self.sampling is None:
            raise UnsupportedError("this server does not trace", where=min(wanted))
        self.sampling.on = wanted.get(_LEVEL, now[_LEVEL]) != ["OFF"]
        self.sampling.rate = int(wanted.get(_RATE, now[_RATE]))
        self.sampling.count = int(wanted.get(_COUNT, now[_COUNT]))


def _trace_setting(name: str, value: object, now: Mapping[str, Any]) -> Any:
    """The value of one setting, checked."""
    if name not in now:
        raise RequestError(f"there is no trace setting {name[:100]!r}", remedy=f"There are: {', '.join(now)}.")
    given = value if isinstance(value, list) else [value]
    texts = [text for text in given if isinstance(text, str)]
    if value is not None and (not texts or len(texts) < len(given)):
        raise RequestError("must be text, or a list of texts", where=name)
    if name == _LEVEL:
        return _trace_level(texts or ["TIMESTAMPS"])
    text = texts[0] if texts else {_RATE: "1", _COUNT: "-1", **_UNCHANGING}[name]
    if name in _UNCHANGING:
        if text != now[name]:
            raise UnsupportedError(f"stays {now[name]!r}", where=name)
    elif not (text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) < 10):
        raise RequestError("must be a whole number, as text", where=name)
    elif int(text) < (1 if name == _RATE else -1):
        raise RequestError(f"{text} is too small", where=name)
    return text


def _trace_level(levels: list[str]) -> list[str]:
    if unknown := set(levels) - {"OFF", "TIMESTAMPS", "TENSORS"}:
        raise RequestError(f"{min(unknown)[:100]!r} is no level", where=_LEVEL)
    if "TENSORS" in levels:
        raise UnsupportedError("tensors are not traced: they are the callers' own", where=_LEVEL)
    return ["OFF"] if "OFF" in levels else ["TIMESTAMPS"]
