"""W3C Trace Context: who asks, in a request's `traceparent` header, and who answered, in the answer's `traceresponse`.

Sources: https://www.w3.org/TR/trace-context/ section 3.2; the header of the answer is in
https://w3c.github.io/trace-context/, an editor's draft still.
"""

import re
from typing import NamedTuple

_FIELDS = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1  # the one flag that version 00 acts on


class Traceparent(NamedTuple):
    """A caller's place in a trace: 32 and 16 hexadecimal digits, and whether it records its part."""

    trace_id: str
    span_id: str
    sampled: bool


def parse(value: str) -> Traceparent | None:
    """What the header says; None where it is not valid and so must be ignored.

    A version that is not known yet is read as version 00, and may go on after a further dash.
    """
    if (found := _FIELDS.fullmatch(value)) is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Traceparent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def response(trace_id: str, span_id: str, *, sampled: bool) -> str:
    """The `traceresponse` of an answer: the caller's trace, and our span in it."""
    return f"00-{trace_id}-{span_id}-{sampled:02x}"
