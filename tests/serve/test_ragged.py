"""Which requests of different lengths share a run: what holds for any of them, and what is worth while."""

from dataclasses import dataclass
from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from headway.serve.ragged import pick


@dataclass(frozen=True)
class Request:
    number: int
    rows: int
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.lengths)


def of(*lengths: int) -> list[Request]:
    return [Request(number, 1, (length,)) for number, length in enumerate(lengths)]


def batch(waiting: list[Request], **given: float) -> list[int]:
    limits = {"max_rows": 32, "max_padding": 0.25, "overhead": 10.0} | given
    return [request.number for request in pick(waiting, **limits)]  # type: ignore[arg-type]


def padded(requests: list[Request]) -> int:
    longest = map(max, zip(*(request.lengths for request in requests), strict=True))
    return sum(request.rows for request in requests) * prod(longest)


def real(requests: list[Request]) -> int:
    return sum(request.rows * request.size for request in requests)


one, two = st.tuples(st.integers(1, 60)), st.tuples(st.integers(1, 12), st.integers(1, 12))
waiting = st.one_of(one, two).flatmap(
    lambda first: st.lists(
        st.tuples(st.integers(1, 6), one if len(first) == 1 else two), min_size=1, max_size=60
    ).map(lambda asked: [Request(number, rows, lengths) for number, (rows, lengths) in enumerate(asked)])
)  # fmt: skip


@settings(deadline=None)
@given(waiting, st.integers(1, 32), st.floats(0, 2), st.floats(0, 1000))
def test_every_bound_holds_and_the_oldest_is_always_there(
    requests: list[Request], max_rows: int, max_padding: float, overhead: float
) -> None:
    found = pick(requests, max_rows=max_rows, max_padding=max_padding, overhead=overhead)
    assert found[0] is requests[0]
    assert len({request.number for request in found}) == len(found)
    if len(found) > 1:
        assert sum(request.rows for request in found) <= max_rows
        assert padded(found) <= (1 + max_padding) * real(found)
        alone = real(requests[:1])
        assert real(found) / (padded(found) + overhead) > alone / (alone + overhead)


@settings(deadline=None)
@given(waiting, st.integers(1, 8), st.floats(0, 100))
def test_a_queue_runs_empty_and_each_request_waits_for_those_before_it_at_most(
    requests: list[Request], max_rows: int, overhead: float
) -> None:
    left, runs = list(requests), 0
    while left:
        behind = {request.number for request in left}
        ran = pick(left, max_rows=max_rows, max_padding=0.25, overhead=overhead)
        runs += 1
        assert all(request.number in behind for request in ran)
        left = [request for request in left if request not in ran]
        assert all(request.number >= runs for request in left), "a request waits for more runs than were before it"


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.integers(1, 16), st.floats(0.1, 100))
def test_one_length_is_served_in_order_and_in_full_batches(rows: list[int], max_rows: int, overhead: float) -> None:
    requests = [Request(number, count, (7,)) for number, count in enumerate(rows)]
    found = pick(requests, max_rows=max_rows, max_padding=0.25, overhead=overhead)
    total, expected = 0, []
    for request in requests:  # what has no room is passed over, and is the oldest soon
        if not expected or total + request.rows <= max_rows:
            expected.append(request)
            total += request.rows
    assert [request.number for request in found] == [request.number for request in expected]


def test_where_a_run_costs_nothing_but_its_elements_no_padding_is_worth_while() -> None:
    assert batch(of(10, 11, 9, 30), overhead=0.0) == [0]


def test_neighbours_in_length_share_a_run_as_far_as_it_pays() -> None:
    assert batch(of(10, 60, 11, 30, 9, 12), overhead=10.0) == [0, 2, 5, 4]
    assert batch(of(10, 60, 11, 30, 9, 12), overhead=1.0) == [0, 2]


def test_a_costly_run_is_filled_up_to_the_bound_of_padding() -> None:
    assert batch(of(10, 11, 12, 13, 20, 40), overhead=1000.0, max_padding=0.25) == [0, 1, 2, 3]
    assert batch(of(10, 11, 12, 13, 20, 40), overhead=1000.0, max_padding=2.0) == [0, 1, 2, 3, 4, 5]


def test_lengths_of_one_size_but_other_sides_are_padded_in_both() -> None:
    requests = [Request(0, 1, (2, 8)), Request(1, 1, (8, 2)), Request(2, 1, (2, 7))]
    assert batch(requests, overhead=1000.0) == [0, 2]
