"""Never more bytes than were granted, counted truly; and a scan pushes out nothing that is in use."""

import tracemalloc
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core.tensors import Array
from headway.observe.cache_counts import CacheCounts
from headway.serve.cache_store import AnswerStore, frozen, size_of


@dataclass(eq=False)
class Owner:
    counts: CacheCounts = field(default_factory=CacheCounts)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def answer(number: int, floats: int = 10) -> dict[str, Array]:
    return frozen({"y": np.full(floats, number, np.float32)}, lasting=True)


def put(store: AnswerStore, number: int, owner: Owner, floats: int = 10) -> int:
    outputs = answer(number, floats)
    store.put(key(number), outputs, size_of(outputs), owner)
    return size_of(outputs)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(3_000, 60_000),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400), st.integers(0, 2)), max_size=150),
)
def test_the_bytes_are_bounded_and_the_counts_are_right(capacity: int, requests: list[tuple[int, int, int]]) -> None:
    store, owners = AnswerStore(capacity), [Owner(), Owner()]
    sizes: dict[int, int] = {}
    for number, floats, what in requests:
        if what == 2:
            store.forget(owners[number % 2])
            assert owners[number % 2].counts.entries == owners[number % 2].counts.bytes == 0
            continue
        found = store.get(key(number))
        if found is not None:
            assert found["y"].tolist() == answer(number, len(found["y"]))["y"].tolist()
        else:
            sizes[number] = put(store, number, owners[number % 2], floats)
            assert (store.get(key(number)) is not None) == (sizes[number] <= store.largest)
        assert store.used <= capacity
        there = [number for number in sizes if key(number) in store._new or key(number) in store._main]
        for parity, owner in enumerate(owners):
            mine = [sizes[number] for number in there if number % 2 == parity]
            assert (owner.counts.entries, owner.counts.bytes) == (len(mine), sum(mine))
        assert store.used == sum(sizes[number] for number in there) + 220 * len(store._ghosts)


@pytest.mark.parametrize("kind", ["numbers", "many outputs", "text"])
def test_what_is_counted_is_what_is_taken(kind: str) -> None:
    def outputs(number: int) -> dict[str, Array]:
        if kind == "numbers":
            return {"y": np.full((1, 10), number, np.float32)}
        if kind == "many outputs":
            return {f"y{n}": np.full((1, 50), number, np.float64) for n in range(5)}
        found = np.empty((1, 3), dtype=object)
        found[0] = [b"%d" % number * 20, f"{number}" * 30, b"%d" % (number + 1)]
        return {"y": found}

    store, owner = AnswerStore(100_000_000), Owner()
    names = {name: name for name in outputs(0)}
    tracemalloc.start()
    try:
        for number in range(2000):
            shared = frozen({names[name]: value for name, value in outputs(number).items()}, lasting=True)
            store.put(np.random.default_rng(number).bytes(32), shared, size_of(shared), owner)
            del shared
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert owner.counts.entries == 2000
    assert 0.8 * taken <= store.used <= 1.35 * taken


def test_a_full_store_takes_what_it_says_ghosts_included() -> None:
    store, owner = AnswerStore(2_000_000), Owner()
    random = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for number in range(20_000):
            put(store, int(number if random.random() < 0.5 else random.integers(0, 1000)), owner)
            store.get(key(int(random.integers(0, 1000))))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(store._ghosts) > 500
    assert store.used > 1_990_000
    assert taken <= 1.1 * store.capacity


def test_a_scan_pushes_out_nothing_that_is_in_use() -> None:
    store, owner = AnswerStore(100_000), Owner()
    hot = range(20)
    for number in hot:
        put(store, number, owner)
        store.get(key(number))
    for number in range(1000, 3000):
        if store.get(key(number)) is None:
            put(store, number, owner)
        if not number % 100:
            assert all(store.get(key(one)) is not None for one in hot), number
    assert owner.counts.evictions > 1500
    put(store, 5000, owner)
    assert store.get(key(5000)) is not None  # and what is new has room


def test_what_comes_back_soon_after_it_went_is_kept_from_then_on() -> None:
    store, owner = AnswerStore(50_000), Owner()
    for number in range(200):
        put(store, number, owner)
    gone = next(number for number in range(200) if key(number) in store._ghosts)
    put(store, gone, owner)
    assert key(gone) in store._main
    for number in range(1000, 1030):
        put(store, number, owner)
    assert store.get(key(gone)) is not None


def test_an_answer_that_would_push_out_all_others_is_not_kept() -> None:
    store, owner = AnswerStore(10_000), Owner()
    put(store, 1, owner)
    put(store, 2, owner, floats=300)
    assert store.get(key(1)) is not None
    assert store.get(key(2)) is None


def test_a_frozen_answer_is_nobodys_to_change_and_keeps_no_batch_alive() -> None:
    batch = np.arange(8, dtype=np.float32).reshape(4, 2)
    for lasting in (True, False):
        row = frozen({"y": batch[1:2]}, lasting=lasting)["y"]
        assert row.tolist() == [[2, 3]]
        with pytest.raises(ValueError, match="read-only"):
            row[0, 0] = 5
        assert (row.base is None) == lasting
    batch[1] = 9
    assert batch.flags.writeable
