"""The bound against queues that are played through, and against itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.measure.queueing import p99_of, utilisation_for


def waited(run: float, utilisation: float, arrivals: int = 200_000) -> float:
    """The 99th percentile of wait and run of a queue with Poisson arrivals, by Lindley's recursion."""
    between = np.random.default_rng(0).exponential(run / utilisation, arrivals)
    walk = np.concatenate([[0.0], np.cumsum(run - between)])
    return float(np.percentile(walk - np.minimum.accumulate(walk) + run, 99))


@pytest.mark.parametrize("utilisation", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_it_holds_and_is_no_idle_promise(utilisation: float) -> None:
    found, told = waited(0.01, utilisation), p99_of(0.01, utilisation)
    assert found <= told * 1.03  # what chance adds to a percentile of so many
    assert told <= 1.8 * found


@given(run=st.floats(1e-6, 10), slack=st.floats(1.01, 1000))
def test_the_one_undoes_the_other(run: float, slack: float) -> None:
    utilisation = utilisation_for(run, run * slack)
    if utilisation > 1e-6:
        assert p99_of(run, utilisation) == pytest.approx(run * slack, rel=1e-3)


@given(run=st.floats(1e-6, 10), one=st.floats(0.01, 0.98), more=st.floats(0.001, 0.01))
def test_the_busier_the_longer_and_never_less_than_a_run(run: float, one: float, more: float) -> None:
    assert run < p99_of(run, one) <= p99_of(run, one + more)


def test_what_cannot_be_kept() -> None:
    assert utilisation_for(0.02, 0.02) == 0
    assert p99_of(0.02, 1.0) == float("inf")
