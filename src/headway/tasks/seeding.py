"""Random numbers that a block draws from a seed, without disturbing the caller's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random numbers of Python, numpy and torch, and give the caller's back afterwards.

    Augmentation and dropout draw from them, and the user's own code may draw from any.
    """
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=_accelerators(), device_type=_accelerator_type()):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _accelerator_type() -> str:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cuda"


def _accelerators() -> list[int]:
    return list(range(torch.accelerator.device_count())) if torch.accelerator.is_available() else []
