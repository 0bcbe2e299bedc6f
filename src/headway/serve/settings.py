"""Settings that callers may read and change while the server runs: of its log, and of traces.

Sources: Triton `docs/protocol/extension_{logging,trace}.md`. A change is a control call: see `control.py`.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from headway.core.errors import RequestError
from headway.observe.logs import logger
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


_OFF = "OFF"
_DEFAULTS: dict[str, Any] = {
    "trace_file": "", "trace_level": [_OFF], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0",
}  # fmt: skip


class TraceSettings:
    """Which requests are traced: for all models, and for each that has its own.

    Attributes:
        changed: is called after every change. None means that nothing traces, and then only OFF can be set.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], None] | None = None
        self._settings: dict[str, dict[str, Any]] = {}  # by model; "" holds those for all

    def of(self, model: str = "") -> dict[str, Any]:
        """The settings of a model: its own, else those for all models. Every value is text, or a list of texts."""
        return {**_DEFAULTS, **self._settings.get("", {}), **self._settings.get(model, {})}

    def rate(self, model: str) -> int:
        """Of how many requests to this model one is to be traced; 0 for none."""
        settings = self.of(model)
        return 0 if settings["trace_level"] == [_OFF] else int(settings["trace_rate"])

    def change(self, given: Mapping[str, object], model: str = "") -> None:
        """Change those settings that are given; None lets one be as for all models again, or as at the start.

        Raises:
            RequestError: an unknown setting or a wrong value; nothing was changed.
            UnsupportedError: what the server does not do.
        """
        checked = {name: None if value is None else self._checked(name, value) for name, value in given.items()}
        mine = {**self._settings.get(model, {}), **checked}
        self._settings[model] = {name: value for name, value in mine.items() if value is not None}
        if self.changed is not None:
            self.changed()

    def _checked(self, name: str, value: object) -> Any:
        if name not in _DEFAULTS:
            raise RequestError(
                f"there is no trace setting {name[:100]!r}", remedy=f"There are: {', '.join(_DEFAULTS)}."
            )
        given = value if isinstance(value, list) else [value]
        texts = [text for text in given if isinstance(text, str)]
        if not texts or len(texts) < len(given):
            raise RequestError("must be text, or a list of texts", where=name)
        if name == "trace_level":
            return self._level(texts)
        text = texts[0]
        number = int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 10 else None
        if len(texts) > 1 or (name == "trace_rate" and (number is None or number < 1)):
            raise RequestError("must be a whole number from 1, as text", where=name)
        if name != "trace_rate" and text != _DEFAULTS[name]:
            raise UnsupportedError(f"stays {_DEFAULTS[name]!r}", where=name)
        return text

    def _level(self, levels: list[str]) -> list[str]:
        if unknown := set(levels) - {_OFF, "TIMESTAMPS", "TENSORS"}:
            raise RequestError(f"{min(unknown)[:100]!r} is no level", where="trace_level")
        if "TENSORS" in levels:
            raise UnsupportedError("tensors are not traced: they are the callers' own", where="trace_level")
        if levels == [_OFF] or self.changed is not None:
            return [_OFF] if _OFF in levels else ["TIMESTAMPS"]
        raise UnsupportedError("this server does not trace", where="trace_level")
