"""The machine Headway stands on: cores, instruction sets, memory, accelerators."""

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict

from headway.core.cgroup import limits, read

# What matters to kernels, as Linux spells it in /proc/cpuinfo.
INSTRUCTION_SETS = (
    "sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


class Int8Choice(BaseModel):
    """Which 8-bit form a machine's kernels compute without saturating, and why.

    `reduced` weights span [-64, 64]: two u8 x s8 products then fit the 16-bit sum of `vpmaddubsw`
    (2 x 255 x 64 = 32,640 < 32,767), which AVX2 and AVX-512 kernels use where the VNNI instructions are missing.
    """

    model_config = ConfigDict(frozen=True)

    weight_range: Literal["full", "reduced"]
    activations: Literal["u8", "s8"]
    reason: str


class Accelerator(BaseModel):
    """A device beside the CPU. `memory_mb` is in units of 10^6 bytes."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    memory_mb: float


class Machine(BaseModel):
    """What a figure was measured on. `memory_mb` is in units of 10^6 bytes."""

    model_config = ConfigDict(frozen=True)

    system: str
    architecture: str
    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_mb: float
    accelerators: tuple[Accelerator, ...] = ()
    python: str

    @property
    def int8(self) -> Int8Choice:
        """The 8-bit form to quantize to when this machine will run the model."""
        have = set(self.instruction_sets)
        if have & {"avx512_vnni", "avx_vnni", "amx_int8"}:
            return Int8Choice(
                weight_range="full", activations="u8", reason="VNNI sums u8 x s8 products in 32 bits: nothing saturates"
            )
        if have & {"asimd", "asimddp", "i8mm"}:
            return Int8Choice(
                weight_range="full", activations="s8", reason="Arm kernels sum s8 x s8 products in 32 bits"
            )
        return Int8Choice(
            weight_range="reduced",
            activations="u8",
            reason="no VNNI: u8 x s8 products are summed in 16 bits and saturate at full range",
        )

    def summary(self) -> str:
        """One line for a report."""
        sets = " ".join(s for s in self.instruction_sets if s.startswith(("avx", "amx", "asimd", "i8mm")))
        return f"{self.cpu}, {self.cores} cores, {self.memory_mb / 1000:.0f} GB, {sets or self.architecture}"


@cache
def here() -> Machine:
    """This machine. Accelerators are listed only where torch is already imported: asking must not cost seconds."""
    return at(Path("/"))


def at(root: Path) -> Machine:
    """The machine that `proc` and `sys` under `root` tell of."""
    flags = _cpu_flags(root)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=_cpu_name(root),
        cores=usable_cores(root),
        instruction_sets=tuple(s for s in INSTRUCTION_SETS if s in flags),
        memory_mb=round(memory(root)[0] / 1e6),
        accelerators=_accelerators(),
        python=platform.python_version(),
    )


def usable_cores(root: Path = Path("/")) -> int:
    """Cores this process may use: the affinity mask and the container's quota, whichever is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = limits(root).cores
    return min(cores, max(1, int(quota))) if quota is not None else cores


def memory(root: Path = Path("/")) -> tuple[int, int]:
    """Bytes of memory this process may use, and how many of them are free: the machine's or the container's."""
    lines = (line.split() for line in read(root / "proc/meminfo").splitlines())
    told = {line[0]: int(line[1]) * 1024 for line in lines if len(line) == 3}
    whole = psutil.virtual_memory()
    total, free = told.get("MemTotal:", whole.total), told.get("MemAvailable:", whole.available)
    group = limits(root)
    if group.memory is not None and group.memory_free is not None:
        total, free = min(total, group.memory), min(free, group.memory_free)
    return total, free


def _cpu_flags(root: Path) -> frozenset[str]:
    if platform.system() == "Darwin":
        # Every Apple Silicon core has these; Intel Macs fall back to the reduced range, which is always right.
        return frozenset({"asimd", "asimddp"} if platform.machine() == "arm64" else {"avx2", "fma"})
    for line in read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _cpu_name(root: Path) -> str:
    for line in read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    if platform.system() == "Darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _accelerators() -> tuple[Accelerator, ...]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "accelerator") or not torch.accelerator.is_available():
        return ()
    kind = str(torch.accelerator.current_accelerator())
    module = getattr(torch, kind, None)
    found = []
    for index in range(torch.accelerator.device_count()):
        describe = getattr(module, "get_device_properties", None)
        about = describe(index) if describe else None
        memory = getattr(about, "total_memory", 0) / 1e6
        found.append(Accelerator(kind=kind, name=getattr(about, "name", kind), memory_mb=round(memory)))
    return tuple(found)
