"""How a failure is told: to the caller in one text, and to the log in full where it is ours."""

from headway.core.errors import HeadwayError
from headway.observe.logs import logger, request_id


def refusal(error: HeadwayError) -> str:
    """What a caller can mend: where, what and how, in one line."""
    text = f"{error.where}: {error.message}" if error.where else error.message
    return f"{text}. {error.remedy}" if error.remedy else text


def failure(error: BaseException) -> str:
    """What a caller cannot mend is for the log; the caller gets the id that finds it there."""
    number = request_id()
    logger.error("request failed", exc_info=error, extra={"fields": {"request_id": number}})
    text = str(error) if isinstance(error, HeadwayError) else "internal error"
    return f"{text} (request {number})"
