"""It switches itself off where it does not pay, and on again: driven by simulated traffic, in simulated seconds."""

from collections.abc import Callable, Iterator
from itertools import count, cycle, islice, pairwise

import numpy as np
import pytest

from headway.serve.cache_worth import BUDGET_S, SAMPLE, Worth

LOOKUP_S, KEEP_S = 10e-6, 7e-6
MISS_S = 25e-6  # with a task, a future and a timer


class Traffic:
    """One model's requests, one after the other, with a cache that has room for everything."""

    def __init__(self, run_s: float = 170e-6) -> None:
        self.run_s = run_s
        self.ran = 0
        self.looked_up = 0
        self.seen: set[int] = set()
        self.worth = Worth(lambda: (self.ran * self.run_s, self.ran))

    def send(self, inputs: Iterator[int], requests: int) -> list[bool]:
        """For each request, whether it was on."""
        return [self.one(number) for number in islice(inputs, requests)]

    def one(self, number: int) -> bool:
        worth = self.worth
        if worth.passes():
            self.ran += 1
            return False
        self.looked_up += 1
        if not worth.on:
            worth.sampled(b"%d" % number, LOOKUP_S)
            self.ran += 1
            return False
        worth.looked_up(LOOKUP_S, hit=number in self.seen)
        if number not in self.seen:
            self.ran += 1
            worth.kept(KEEP_S)
            self.seen.add(number)
        return True


def unique(start: int = 10**9) -> Iterator[int]:
    return count(start)


def zipf(inputs: int, s: float = 1.1, seed: int = 0) -> Iterator[int]:
    chances = 1 / np.arange(1, inputs + 1) ** s
    random = np.random.default_rng(seed)
    while True:
        yield from random.choice(inputs, 10_000, p=chances / chances.sum()).tolist()


def test_traffic_that_repeats_keeps_it_on() -> None:
    assert all(Traffic().send(zipf(10_000), 50_000))


def test_warming_up_is_not_mistaken_for_a_loss() -> None:
    # Evenly spread over as many inputs as take thousands of requests to come a second time.
    even = (int(number) for number in np.random.default_rng(0).integers(0, 10_000, 50_000))
    assert all(Traffic().send(even, 50_000))


def test_traffic_that_never_repeats_switches_it_off_soon_and_for_good() -> None:
    traffic = Traffic()
    began = traffic.send(unique(), 6_000)
    assert began[0]
    assert not began[-1]
    assert sum(began) == pytest.approx(BUDGET_S / MISS_S, rel=0.01)  # what it may lose, and no more
    traffic.looked_up = 0
    assert not any(traffic.send(unique(), 200_000))
    assert traffic.looked_up == pytest.approx(200_000 / SAMPLE, rel=0.1)


def test_it_comes_back_when_traffic_repeats_again() -> None:
    traffic = Traffic()
    traffic.send(unique(), 6_000)
    assert not traffic.worth.on
    again = traffic.send(cycle(range(20)), 10_000)
    assert all(again[-1000:])
    traffic.send(unique(5 * 10**9), 6_000)
    assert not traffic.worth.on
    assert all(traffic.send(zipf(1_000, seed=1), 60_000)[-1000:])


@pytest.mark.parametrize(("share", "stays"), [(0.10, False), (0.25, True)])
def test_what_decides_is_what_it_costs_against_what_it_saves(share: float, stays: bool) -> None:
    # A miss costs 25 us and a hit 10, which saves 180: it pays from 13% on.
    random, fresh = np.random.default_rng(0), unique()
    mixed = (0 if random.random() < share else next(fresh) for _ in count())
    traffic = Traffic()
    assert traffic.send(mixed, 50_000)[-1] == stays


def test_a_slow_model_needs_few_hits_and_a_fast_one_many() -> None:
    def mixed() -> Iterator[int]:
        random, fresh = np.random.default_rng(0), unique()
        return (0 if random.random() < 0.04 else next(fresh) for _ in count())

    assert all(Traffic(run_s=5e-3).send(mixed(), 30_000))
    assert not Traffic(run_s=50e-6).send(mixed(), 30_000)[-1]


def test_it_does_not_go_to_and_fro_where_it_barely_pays() -> None:
    random, fresh = np.random.default_rng(0), unique()
    mixed = (0 if random.random() < 0.12 else next(fresh) for _ in count())
    traffic = Traffic()
    states = traffic.send(mixed, 300_000)
    assert sum(one != other for one, other in pairwise(states)) <= 4


def test_a_stall_of_the_machine_says_nothing_of_the_traffic() -> None:
    traffic = Traffic()
    traffic.send(cycle(range(10)), 1_000)
    traffic.worth.looked_up(3.0, hit=True)
    assert traffic.worth.on


def test_it_decides_nothing_before_it_knows_what_a_run_costs() -> None:
    worth = Worth(lambda: (0.0, 0))
    for _ in range(100):
        worth.looked_up(1.0, hit=False)
    assert worth.on


def test_keys_of_samples_are_bounded_and_go_when_it_comes_back() -> None:
    traffic = Traffic()
    traffic.worth.room = 50
    traffic.send(unique(), 100_000)
    assert len(traffic.worth._sampled) == 50
    traffic.send(cycle(range(5)), 20_000)
    assert traffic.worth.on
    assert not len(traffic.worth._sampled)


def test_a_beat_in_the_traffic_does_not_fool_the_sample() -> None:
    # Every 64th request asks the same: one that counted to 64 could see nothing else.
    fresh = unique()
    probes: Callable[[int], int] = lambda number: 0 if number % SAMPLE == 0 else next(fresh)  # noqa: E731
    traffic = Traffic()
    traffic.send(unique(10**12), 6_000)
    states = traffic.send(map(probes, count()), 300_000)
    assert not any(states)
