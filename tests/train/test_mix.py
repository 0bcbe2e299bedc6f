"""A bad mix is refused before anything starts, with what to change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headway.core.errors import ConfigError
from headway.train.config import Parallel, TrainConfig
from headway.train.mix import Mix, resolve


@given(data=st.integers(1, 64), shard=st.integers(1, 64), tensor=st.integers(1, 64))
def test_auto_takes_what_is_left(data: int, shard: int, tensor: int) -> None:
    mix = Mix(data, shard, tensor)
    assert resolve(Parallel(shard=shard, tensor=tensor), data * shard * tensor) == mix
    assert resolve(Parallel(data=data, shard=shard, tensor=tensor), data * shard * tensor) == mix


@pytest.mark.parametrize(
    ("asked", "processes", "says", "remedy"),
    [
        (
            {"shard": 2},
            3,
            "3 processes cannot be shared out among shard: 2",
            "2 or 4 processes, or set shard to 1 or 3",
        ),
        ({"shard": 4}, 1, "1 processes cannot be shared out among shard: 4", "4 processes, or set shard to 1"),
        ({"data": 2, "shard": 2}, 2, "is 4, and there are 2 processes", "--nproc 4"),
        ({"tensor": 2}, 3, "cannot be shared out among tensor: 2", "2 or 4 processes, or set tensor to 1 or 3"),
        (
            {"shard": 2, "tensor": 2},
            6,
            "6 processes cannot be shared out among shard: 2 times tensor: 2",
            "4 or 8 processes, or set shard times tensor to 1, 2, 3 or 6",
        ),
        ({"data": 2, "shard": 2, "tensor": 2}, 4, "data: 2 times shard: 2 times tensor: 2 is 8, and", "--nproc 8"),
        ({"pipeline": 2}, 2, "pipeline parallel training is not there yet", "use shard"),
    ],
)
def test_a_mix_that_does_not_fit_says_what_to_change(
    asked: dict[str, int], processes: int, says: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        resolve(Parallel(**asked), processes)
    assert caught.value.where == "train.parallel"
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"parallel": {"tensor": 2}, "precision": "fp16"}, "take bf16 or fp32"),
        ({"parallel": {"tensor": 2}, "compress": "fp16"}, "set tensor and shard to 1"),
        ({"parallel": {"shard": 2}, "compress": "powersgd"}, "set tensor and shard to 1"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TrainConfig.model_validate(settings)
