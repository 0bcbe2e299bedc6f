"""Fields are read back as they were written."""

from hypothesis import given
from hypothesis import strategies as st

from headway.runtimes.wire import encode, fields

NUMBERS = st.integers(1, 2**29 - 1)


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 2**63 - 1) | st.binary(max_size=300) | st.text(max_size=50))))
def test_whatever_is_written_is_read(written: list[tuple[int, int | bytes | str]]) -> None:
    read = list(fields(b"".join(encode(number, value) for number, value in written)))
    assert [field.number for field in read] == [number for number, _ in written]
    for field, (_, value) in zip(read, written, strict=True):
        if isinstance(value, int):
            assert field.value == value
        else:
            assert (field.text if isinstance(value, str) else field.message) == value
