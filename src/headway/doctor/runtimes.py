"""What runs models on this machine. "Ready" is only what has just run one and gave the right numbers."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from headway.core import plugins
from headway.core.cgroup import read
from headway.core.errors import HeadwayError
from headway.core.progress import SILENT, Progress
from headway.doctor.probe import Probe
from headway.doctor.trial import Outcome, attempt, tiny_model
from headway.runtimes.runtime import Runtime

State = Literal["ready", "broken", "not tried", "not installed", "not on this machine", "not offered"]
# What the field runs models with and Headway has no runtime for, and the package that brings it.
_OTHERS = {
    "torch AOTInductor": "torch",
    "tvm": "apache-tvm",
    "litert": "ai-edge-litert",
    "executorch": "executorch",
}
_INTEL = "0x8086"  # PCI vendor
# Files by which a kernel's driver shows a device (https://docs.kernel.org/admin-guide/devices.html).
_FILES = {
    "cuda": ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg"),
    "tensorrt": ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg"),
    "rocm": ("dev/kfd",),
    "cann": ("dev/davinci_manager",),
    "npu": ("dev/accel/accel*",),
}


@dataclass(frozen=True)
class Listed:
    """One runtime on one device: how it stands, what that rests on, and what to do where it is not ready."""

    runtime: str
    device: str
    state: State
    detail: str
    remedy: str = ""

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def listed(probe: Probe, progress: Progress = SILENT, attempt: Callable[..., Outcome] = attempt) -> list[Listed]:
    """Every runtime on every device that it can be asked for; whatever may be ready is tried.

    Args:
        probe: the machine and the environment.
        progress: told of the trials.
        attempt: makes a trial.
    """
    pairs = [(name, device) for name in plugins.names("headway.runtimes") for device in _devices(name)]
    found = []
    with tempfile.TemporaryDirectory() as folder, progress.work("try runtimes", len(pairs) + 1) as bar:
        model = Path(folder, "tiny.onnx")
        model.write_bytes(tiny_model())
        for name, device in pairs:
            if _here(device, probe):
                found.append(_listed(name, device, attempt(name, str(model), device)))
            else:
                found.append(Listed(name, device, "not on this machine", f"no {device} device is to be seen"))
            bar.advance(1)
        if "torch" in probe.packages:
            found.append(_listed("torch eager", "cpu", attempt("torch")))
        else:
            found.append(Listed("torch eager", "cpu", "not installed", "for ship alone", "pip install 'headway[ship]'"))
        bar.advance(1)
    return [*found, *_others(probe)]


def _devices(name: str) -> tuple[str, ...]:
    try:
        runtime: Runtime = plugins.load("headway.runtimes", name)()
    except HeadwayError:
        return ("cpu",)  # the trial says why
    return tuple(getattr(runtime, "devices", ("cpu",)))


def _here(device: str, probe: Probe) -> bool:
    if device in ("gpu", "xpu"):  # Intel's
        return any(read(file).strip() == _INTEL for file in probe.files("sys/class/drm/renderD*/device/vendor"))
    if device == "mps":
        return sys.platform == "darwin"
    return device not in _FILES or any(True for _ in probe.files(*_FILES[device]))


def _listed(name: str, device: str, tried: Outcome) -> Listed:
    states: dict[str, State] = {"right": "ready", "absent": "not installed", "untried": "not tried"}
    return Listed(name, device, states.get(tried.state, "broken"), tried.text, tried.fix)


def _others(probe: Probe) -> Iterator[Listed]:
    for name, package in _OTHERS.items():
        have = probe.packages.get(package)
        what = f"{package} {have.version} is" if have else f"{package} is not"
        yield Listed(name, "cpu", "not offered", f"Headway has no runtime for it yet; {what} installed")
