"""The choice of device and precision, and the reason it carries."""

import pytest
import torch

from headway.core import machine
from headway.core.errors import ConfigError
from headway.train.config import TrainConfig
from headway.train.precision import choose


def test_auto_on_a_cpu_takes_bf16_only_with_native_instructions() -> None:
    chosen = choose(TrainConfig(device="cpu"))
    native = {"amx_bf16", "avx512_bf16", "bf16"} & set(machine.here().instruction_sets)
    assert chosen.name == ("bf16" if native else "fp32")
    assert "bf16" in chosen.reason
    assert not chosen.scaled


def test_what_the_recipe_asks_for_is_taken() -> None:
    chosen = choose(TrainConfig(device="cpu", precision="fp16"))
    assert (chosen.name, chosen.device.type, chosen.scaled) == ("fp16", "cpu", True)
    assert "as the recipe asks" in chosen.reason


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_computes_in_the_chosen_type(name: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(2, 2)
    with choose(TrainConfig.model_validate({"device": "cpu", "precision": name})).autocast():
        assert layer(torch.zeros(1, 2)).dtype == dtype


def test_a_device_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="knows no device 'warp'"):
        choose(TrainConfig(device="warp"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator here")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ConfigError, match="no 'cuda' here"):
        choose(TrainConfig(device="cuda"))
