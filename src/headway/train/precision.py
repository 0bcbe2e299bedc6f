"""Which device trains, and in which precision; an automatic choice carries its reason."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from headway.core import machine
from headway.core.errors import ConfigError
from headway.train.config import TrainConfig


@dataclass(frozen=True)
class Precision:
    """How the loop computes.

    Attributes:
        name: "fp32", "bf16" or "fp16".
        device: where.
        reason: why, for a report.
    """

    name: str
    device: torch.device
    reason: str

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled up so that small gradients survive: fp16 has 5 exponent bits, bf16 has 8."""
        return self.name == "fp16"

    def autocast(self) -> AbstractContextManager[None]:
        """Run matrix products and convolutions in the chosen type; weights stay fp32 (Micikevicius et al. 2018)."""
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        return torch.autocast(self.device.type, dtype=low or torch.bfloat16, enabled=low is not None)


def choose(config: TrainConfig) -> Precision:
    """The precision and device that `config` asks for, or the best here where it says `auto`.

    Raises:
        ConfigError: there is no such device here.
    """
    device = _device(config.device)
    if config.precision != "auto":
        return Precision(config.precision, device, f"{config.precision} on {device}, as the recipe asks")
    native, why = _native_bf16(device)
    return Precision("bf16" if native else "fp32", device, f"{'bf16' if native else 'fp32'} on {device}: {why}")


def _device(name: str) -> torch.device:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"torch knows no device {name!r}", where="train.device") from error
    if device.type != "cpu" and (found is None or device.type != found.type):
        raise ConfigError(
            f"there is no {device.type!r} here; torch sees {found.type if found else 'only the CPU'}",
            where="train.device",
            remedy="Set train.device to auto or cpu.",
        )
    return device


def _native_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether the hardware multiplies bf16 itself: emulated bf16 is slower than fp32.

    Measured with avx512_bf16 on an AMD EPYC, one thread, steps of the two precisions in turn: 1.5 times as fast as
    fp32, for the digits network as for the Fashion-MNIST one.
    """
    if device.type == "cpu":
        have = {"amx_bf16", "avx512_bf16", "bf16"} & set(machine.here().instruction_sets)
        return bool(have), f"the CPU has {min(have)}" if have else "the CPU has no bf16 instructions"
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, "the GPU computes it natively" if native else "the GPU would emulate bf16"
    return False, f"bf16 on {device.type} was never measured"
