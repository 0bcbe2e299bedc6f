"""Never more bytes than were granted, counted truly; and a scan pushes out nothing that is in use."""

import gc
import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.observe.cache_counts import CacheCounts
from headway.serve.cache_store import _GHOST_BYTES, AnswerStore, Recent, _size


class Owner:
    """One owner of answers, which are its numbers written out."""

    def __init__(self, store: AnswerStore) -> None:
        self.store, self.counts = store, CacheCounts()
        self.start = store.own(self.counts)

    def key(self, number: int) -> bytes:
        return self.start + number.to_bytes(32, "big")

    def put(self, number: int, size: int = 200) -> None:
        self.store.put(self.key(number), (b"%d" % number).ljust(size))

    def get(self, number: int) -> bytes | None:
        return self.store.get(self.key(number))

    def has(self, number: int) -> bool:
        return self.get(number) is not None


@settings(max_examples=200, deadline=None)
@given(
    st.integers(3_000, 60_000),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1_600), st.integers(0, 9)), max_size=150),
)
def test_the_bytes_are_bounded_and_the_counts_are_right(capacity: int, requests: list[tuple[int, int, int]]) -> None:
    store = AnswerStore(capacity)
    owners = [Owner(store), Owner(store)]
    for number, size, what in requests:
        which = number % 2
        owner = owners[which]
        if what == 9:
            store.forget(owner.start)
            assert owner.counts.entries == owner.counts.bytes == 0
            owners[which] = Owner(store)
        elif (found := owner.get(number)) is not None:
            assert found.split() == [b"%d" % number]
        else:
            owner.put(number, size)
            assert owner.has(number) == (_size((b"%d" % number).ljust(size)) <= store.largest)
        assert store.used <= capacity
        for one in owners:
            mine = [_size(answer) for key, answer in store._answers.items() if key.startswith(one.start)]
            assert (one.counts.entries, one.counts.bytes) == (len(mine), sum(mine))
        assert store.used == sum(one.counts.bytes for one in owners) + _GHOST_BYTES * len(store._ghosts)
        assert sorted((*store._new, *store._main)) == sorted(store._answers) == sorted(store._uses)
        assert store._new_bytes == sum(_size(store._answers[key]) for key in store._new)


def test_what_is_counted_is_what_is_taken() -> None:
    # From a few to many, since dictionaries grow in steps.
    random = np.random.default_rng(0)
    for count in (300, 1_000, 3_000, 7_000):
        tracemalloc.start()
        try:
            store = AnswerStore(100_000_000)
            owner = Owner(store)
            for _ in range(count):
                store.put(owner.start + random.bytes(32), random.bytes(200))
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert owner.counts.entries == count
        assert 0.9 * taken <= store.used <= 1.3 * taken


def test_a_full_store_takes_what_it_says_ghosts_included() -> None:
    random = np.random.default_rng(0)
    tracemalloc.start()
    try:
        store = AnswerStore(1_000_000)
        owner = Owner(store)
        for number in range(10_000):
            owner.put(int(number if random.random() < 0.5 else random.integers(0, 1000)))
            owner.get(int(random.integers(0, 1000)))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(store._ghosts) > 500
    assert store.used > 990_000
    assert taken <= 1.1 * store.capacity


def test_the_garbage_collector_has_nothing_to_look_at() -> None:
    store = AnswerStore(10_000_000)
    owner = Owner(store)
    owner.put(0)
    before = len(gc.get_objects())
    for number in range(1, 5_000):
        owner.put(number)
    assert len(gc.get_objects()) - before < 50
    assert not gc.is_tracked(store._answers)


def test_a_scan_pushes_out_nothing_that_is_in_use() -> None:
    owner = Owner(AnswerStore(100_000))
    hot = range(20)
    for number in hot:
        owner.put(number)
        owner.get(number)
    for number in range(1000, 3000):
        owner.put(number)
        if not number % 100:
            assert all(owner.has(one) for one in hot), number
    assert owner.counts.evictions > 1500
    owner.put(5000)
    assert owner.has(5000)  # and what is new has room


def test_what_comes_back_soon_after_it_went_is_kept_from_then_on() -> None:
    store = AnswerStore(50_000)
    owner = Owner(store)
    for number in range(200):
        owner.put(number)
    gone = next(number for number in range(200) if owner.key(number) in store._ghosts)
    owner.put(gone)
    assert owner.key(gone) in store._main
    for number in range(1000, 1030):
        owner.put(number)
    assert owner.has(gone)


def test_what_is_not_asked_for_any_more_goes_in_the_end() -> None:
    owner = Owner(AnswerStore(50_000))
    for number in range(50):
        owner.put(number)
        for _ in range(10):
            owner.get(number)
    for number in range(1000, 3000):  # each asked for twice
        owner.put(number)
        owner.get(number)
    assert not any(owner.has(number) for number in range(50))


def test_an_answer_that_would_push_out_all_others_is_not_kept() -> None:
    owner = Owner(AnswerStore(10_000))
    owner.put(1)
    owner.put(2, size=1200)
    assert owner.has(1)
    assert not owner.has(2)


def test_an_answer_that_is_here_already_is_left_as_it_is() -> None:
    owner = Owner(AnswerStore(10_000))
    owner.put(1, size=10)
    owner.put(1, size=20)
    assert len(owner.get(1) or b"") == 10
    assert owner.counts.entries == 1


def test_recent_keys_are_as_many_as_were_asked_for() -> None:
    recent = Recent()
    for number in range(100):
        recent.add(b"%d" % number)
        recent.trim(10)
    assert [number for number in range(100) if b"%d" % number in recent] == list(range(90, 100))
    recent.trim(0)
    assert not len(recent)
