"""How a failure is told: to the caller in one text, to the metrics as one outcome, to the log where it is ours."""

import asyncio
import logging

from headway.core.errors import HeadwayError, RequestError
from headway.observe.logs import logger, places
from headway.observe.metrics import Outcome
from headway.observe.requests import current_id
from headway.serve.errors import (
    DeadlineError,
    FullError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)

_OUTCOMES: tuple[tuple[type[BaseException], Outcome], ...] = (
    (FullError, "full"),
    (DeadlineError, "late"),
    (UnavailableError, "unavailable"),
    (NotFoundError, "not_found"),
    (TooLargeError, "too_large"),
    (UnsupportedError, "unsupported"),
    (RequestError, "wrong"),
    (asyncio.CancelledError, "cancelled"),
    (ConnectionError, "cancelled"),
)


def outcome_of(error: BaseException) -> Outcome:
    """How a request ended that ended with this."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), "failed")


def refusal(error: HeadwayError) -> str:
    """What a caller can mend: where, what and how, in one line."""
    text = f"{error.where}: {error.message}" if error.where else error.message
    return f"{text}. {error.remedy}" if error.remedy else text


def failure(error: BaseException) -> str:
    """What a caller cannot mend is for the log; the caller gets the id that finds it there.

    The messages of what it came from, which may quote the request, are logged at the level of debugging alone.
    """
    number = current_id()
    told = {"request_id": number}
    if logger.isEnabledFor(logging.DEBUG):
        logger.error("request failed", exc_info=error, extra={"fields": told})
    else:
        logger.error("request failed", extra={"fields": told | {"traceback": places(error)}})
    text = str(error) if isinstance(error, HeadwayError) else "internal error"
    return f"{text} (request {number})"
