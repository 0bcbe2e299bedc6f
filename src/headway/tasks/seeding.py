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


def reseed(*key: int, device: torch.device | None = None) -> None:
    """Let the same three, and `device`'s own, go on from what `key` says, as if nothing had been drawn before.

    One of some ten microseconds, where `seeded` takes hundreds: it keeps nothing. Each generator has words of its own.
    """
    words = np.random.SeedSequence(key).generate_state(4).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(words[2] | words[3] << 32)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(words[2] | words[3] << 32)


def _accelerator_type() -> str:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cuda"


def _accelerators() -> list[int]:
    return list(range(torch.accelerator.device_count())) if torch.accelerator.is_available() else []
