"""Traceparent: what the specification calls valid is read, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.observe.traceparent import Traceparent, parse, response

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),  # flags that are not known yet are passed over
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),  # a later version is read as far as it is known
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
        (f"01-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_what_is_valid_is_read(value: str, *, sampled: bool) -> None:
    assert parse(value) == Traceparent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 ends here
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-011",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0١",  # a digit, but no ASCII
        f"00_{TRACE}_{SPAN}_01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        "00-" + "a" * 100_000,
    ],
)
def test_what_is_not_valid_is_ignored(value: str) -> None:
    assert parse(value) is None


@given(st.text() | st.text(HEX + "-", max_size=60))
def test_no_text_breaks_it(value: str) -> None:
    found = parse(value)
    assert found is None or (len(found.trace_id), len(found.span_id)) == (32, 16)


@given(st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16), st.booleans())
def test_a_response_is_what_a_traceparent_may_be(trace_id: str, span_id: str, sampled: bool) -> None:
    """The two headers have one format."""
    found = parse(response(trace_id, span_id, sampled=sampled))
    if set(trace_id) == {"0"} or set(span_id) == {"0"}:
        assert found is None
    else:
        assert found == (trace_id, span_id, sampled)
