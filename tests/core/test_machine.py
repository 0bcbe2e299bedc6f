"""What the machine says of itself, and what follows for 8-bit arithmetic."""

import numpy as np
import pytest

from headway.core.machine import Machine, here, usable_cores


def machine(*sets: str) -> Machine:
    return Machine(
        system="Linux", architecture="x", cpu="x", cores=1, instruction_sets=sets, memory_mb=1, python="3.11"
    )


def test_this_machine() -> None:
    found = here()
    assert 1 <= found.cores == usable_cores()
    assert found.memory_mb > 100
    assert found.summary()
    assert Machine.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("sets", "weights", "activations"),
    [
        (("avx2", "fma"), "reduced", "u8"),
        (("avx2", "avx512f", "avx512bw"), "reduced", "u8"),
        (("avx2", "avx512f", "avx512_vnni"), "full", "u8"),
        (("avx2", "avx_vnni"), "full", "u8"),
        (("asimd", "asimddp"), "full", "s8"),
        ((), "reduced", "u8"),
    ],
)
def test_the_8_bit_form_follows_the_instruction_sets(sets: tuple[str, ...], weights: str, activations: str) -> None:
    choice = machine(*sets).int8
    assert (choice.weight_range, choice.activations) == (weights, activations)
    assert choice.reason


def test_the_reduced_range_is_the_largest_that_fits() -> None:
    """Two products of the largest activation and weight must fit 16 signed bits."""
    assert 2 * 255 * 64 <= np.iinfo(np.int16).max < 2 * 255 * 65
