"""NVIDIA's driver and GPUs, as the kernel and `nvidia-smi` tell of them.

`nvidia-smi` comes with every driver, so this needs no package. It is not asked where there is no driver.
"""

import re
import subprocess
from typing import NamedTuple

from headway.core.cgroup import read
from headway.doctor.finding import Finding, fail, megabytes, ok, warn
from headway.doctor.probe import Probe

_AREA = "gpu"
# "NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat ..." or "... Open Kernel Module for x86_64  570.86.15  Release ..."
_VERSION = re.compile(r"Kernel Module\s+(?:for\s+\S+\s+)?(\d+(?:\.\d+)+)\s")
_NVIDIA, _AMD = "0x10de", "0x1002"  # PCI vendors
_DISPLAY = ("0x03", "0x12")  # PCI classes of display controllers and processing accelerators
_SECONDS = 20
_ASK = ("--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader,nounits")


class Gpu(NamedTuple):
    """One GPU. `compute` is its compute capability, such as "9.0"; memory in bytes."""

    name: str
    memory: int
    compute: str


class Nvidia(NamedTuple):
    """What is there.

    Attributes:
        told: what the kernel module says of itself; "" where it is not loaded.
        driver: its version; None where there is none, or none that can be read.
        gpus: that answer.
        trouble: why they do not, where there is a driver.
    """

    told: str = ""
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""


def look(probe: Probe) -> Nvidia:
    """Ask the kernel for the driver, and the driver for its GPUs."""
    told = " ".join(read(probe.root / "proc/driver/nvidia/version").split("\n")[0].split())
    found = _VERSION.search(told + " ")
    driver = found[1] if found else None
    program = probe.program("nvidia-smi")
    if program is None:
        return Nvidia(told, driver)
    try:
        asked = subprocess.run([program, *_ASK], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Nvidia(told, driver, trouble=f"nvidia-smi does not answer: {type(error).__name__}")
    rows = [[cell.strip() for cell in line.split(",")] for line in asked.stdout.splitlines()]
    if asked.returncode or not rows or any(len(row) != 4 for row in rows):
        words = " ".join((asked.stdout or asked.stderr).split())[:200]
        return Nvidia(told, driver, trouble=f"nvidia-smi says: {words or 'nothing'}")
    gpus = tuple(Gpu(row[0], int(row[2]) << 20 if row[2].isdigit() else 0, row[3]) for row in rows)
    return Nvidia(told, driver or rows[0][1], gpus)


def check(probe: Probe, nvidia: Nvidia) -> list[Finding]:
    """Whether what is built in can be used."""
    devices = _devices(probe)
    found: list[Finding] = []
    if _AMD in devices:
        found.append(ok(_AREA, "AMD", "a GPU is built in; Headway does not examine its driver"))
    if not nvidia.told and not nvidia.gpus:
        if _NVIDIA not in devices:
            return [*found, ok(_AREA, "NVIDIA", "none")]
        words = "a GPU is built in, but no driver is loaded"
        return [*found, warn(_AREA, "NVIDIA", words, "Install NVIDIA's driver, and start the machine again.")]
    if nvidia.told and nvidia.driver is None:
        words = f"the driver's version cannot be read: {nvidia.told[:100]!r}"
        return [*found, fail(_AREA, "driver", words, "Install NVIDIA's driver anew, and start the machine again.")]
    if nvidia.trouble:
        fix = "Start the machine again: a driver that was updated is not loaded before. In a container, start it with"
        words = f"driver {nvidia.driver} is loaded, but no GPU answers: {nvidia.trouble}"
        found.append(fail(_AREA, "driver", words, f"{fix} its GPUs: docker run --gpus all."))
    elif not nvidia.gpus:
        words = f"driver {nvidia.driver}; its GPUs are not known, for nvidia-smi is not here"
        found.append(warn(_AREA, "driver", words, "In a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility"))
    else:
        found.append(ok(_AREA, "driver", str(nvidia.driver)))
    return found + [
        ok(_AREA, "NVIDIA", f"{gpu.name}, {megabytes(gpu.memory)}, compute capability {gpu.compute}")
        for gpu in nvidia.gpus
    ]


def _devices(probe: Probe) -> set[str]:
    """PCI vendors of the GPUs that are built in."""
    folders = [file.parent for file in probe.files("sys/bus/pci/devices/*/vendor")]
    return {read(f / "vendor").strip() for f in folders if read(f / "class").startswith(_DISPLAY)}
