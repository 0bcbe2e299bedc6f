"""Random numbers from a seed or a key."""

import random

import numpy as np
import torch

from headway.tasks.seeding import reseed, seeded


def _drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.normal()), float(torch.rand(()))


def test_a_key_gives_the_same_numbers_whatever_was_drawn_before() -> None:
    with seeded(0):
        reseed(1, 2, 3)
        first = _drawn()
        _drawn()
        reseed(1, 2, 3)
        assert _drawn() == first
        for other in ((1, 2, 4), (1, 3, 2), (1, 2, 3, 0, 1)):
            reseed(*other)
            assert not set(_drawn()) & set(first)


def test_numpy_and_torch_do_not_draw_alike() -> None:
    """Both are Mersenne twisters: one seed for both would give one stream twice."""
    with seeded(0):
        reseed(7)
        assert np.random.randint(2**32, dtype=np.uint32) != torch.randint(2**32, ()).item()
        seen = {random.getrandbits(32) for _ in range(10)}
        assert len(seen) == 10


def test_the_callers_numbers_come_back() -> None:
    before = random.getstate(), torch.get_rng_state()
    with seeded(3):
        reseed(4)
        _drawn()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
