"""Every row once an epoch, whatever the sizes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.train.config import TrainConfig
from headway.train.plan import Plan


def _plan(rows: int, **config: object) -> Plan:
    return Plan(rows, TrainConfig.model_validate(config))


@given(rows=st.integers(1, 300), batch_size=st.integers(1, 70), accumulate=st.integers(1, 5), epochs=st.integers(1, 3))
def test_each_epoch_sees_every_row_once(rows: int, batch_size: int, accumulate: int, epochs: int) -> None:
    plan = _plan(rows, batch_size=batch_size, accumulate=accumulate, epochs=epochs)
    assert plan.steps == epochs * plan.steps_per_epoch
    for epoch in range(epochs):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [batch for step in steps for batch in plan.batches(step)]
        assert sorted(np.concatenate(batches)) == list(range(rows))
        assert all(len(plan.batches(step)) <= accumulate for step in steps)
        assert [plan.ends_epoch(step) for step in steps] == [False] * (len(steps) - 1) + [True]


@given(lengths=st.lists(st.integers(1, 99), min_size=1, max_size=300), batch_size=st.integers(1, 40))
def test_batches_of_like_lengths_see_every_row_once(lengths: list[int], batch_size: int) -> None:
    plan = replace(_plan(len(lengths), batch_size=batch_size, epochs=2), lengths=tuple(lengths))
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = [batch for step in steps for batch in plan.batches(step)]
        assert sorted(np.concatenate(seen)) == list(range(len(lengths)))


def test_batches_of_like_lengths_hardly_need_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 2000)
    plan = replace(_plan(2000, batch_size=20, epochs=2), lengths=tuple(lengths.tolist()))
    batches = [[plan.batches(epoch * 100 + step)[0] for step in range(100)] for epoch in range(2)]
    for epoch in batches:
        assert sum(len(batch) * lengths[batch].max() for batch in epoch) < 1.1 * lengths.sum()
        longest = [int(lengths[batch].max()) for batch in epoch]
        assert longest != sorted(longest)
    assert {tuple(sorted(batch)) for batch in batches[0]} != {tuple(sorted(batch)) for batch in batches[1]}


@given(rows=st.integers(2, 300), batch_size=st.integers(2, 70))
def test_no_batch_has_a_single_row(rows: int, batch_size: int) -> None:
    plan = _plan(rows, batch_size=batch_size, epochs=1)
    assert min(len(batch) for step in range(plan.steps) for batch in plan.batches(step)) > 1


@given(
    rows=st.integers(1, 3000),
    epochs=st.floats(0.1, 5),
    warmup=st.floats(0, 0.99),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_the_learning_rate_stays_positive_and_below_the_highest(
    rows: int, epochs: float, warmup: float, schedule: str
) -> None:
    plan = _plan(rows, epochs=epochs, warmup=warmup, schedule=schedule, lr=0.5, batch_size=16)
    rates = [plan.lr(step) for step in range(plan.steps)]
    assert all(0 < rate <= 0.5 for rate in rates)
    rising = round(warmup * plan.steps)
    assert rates[:rising] == sorted(rates[:rising])
    assert rates[rising:] == sorted(rates[rising:], reverse=True)


def test_a_fraction_of_an_epoch_is_that_share_of_its_steps() -> None:
    assert _plan(1000, batch_size=10, epochs=0.25).steps == 25
    assert _plan(1000, batch_size=10, epochs=1.5).steps == 150
    assert _plan(5, batch_size=10, epochs=0.01).steps == 1


def test_orders_differ_by_epoch_and_seed_and_repeat() -> None:
    plan, other = _plan(100, batch_size=100, epochs=2), _plan(100, batch_size=100, epochs=2, seed=1)
    first, second = plan.batches(0)[0], plan.batches(1)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other.batches(0)[0])
    np.testing.assert_array_equal(first, plan.batches(0)[0])


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (9, 0), (10, 1)])
def test_epochs_are_counted_from_zero(step: int, epoch: int) -> None:
    assert _plan(100, batch_size=10, epochs=2).epoch(step) == epoch
