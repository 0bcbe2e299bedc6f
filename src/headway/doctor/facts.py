"""The versions that rules are about, by name, read from metadata and text. Nothing is imported: that takes seconds."""

import platform
import re
from collections.abc import Mapping

from headway.doctor.nvidia import Nvidia
from headway.doctor.probe import Probe

Facts = Mapping[str, tuple[str, ...]]
"""Versions by name. Several where several are installed, such as the CUDA runtimes of two frameworks."""

# Where a framework writes down the CUDA that it was built for.
_BUILT_FOR = {
    "torch-cuda": ("torch/version.py", re.compile(r"^cuda\b[^=]*=\s*'([\d.]+)'", re.MULTILINE)),
    "onnxruntime-cuda": (
        "onnxruntime/capi/build_and_package_info.py",
        re.compile(r"^cuda_version\s*=\s*['\"]([\d.]+)['\"]", re.MULTILINE),
    ),
}
# Libraries that come as packages, or lie where a system keeps libraries.
_LIBRARIES = {
    "cuda-runtime": (re.compile(r"nvidia-cuda-runtime(-cu\d+)?"), "libcudart"),
    "cudnn": (re.compile(r"nvidia-cudnn(-cu\d+)?"), "libcudnn"),
}
_FOLDERS = ("usr/lib", "usr/lib64", "usr/lib/*-linux-gnu", "usr/local/cuda*/lib64", "usr/local/cuda*/targets/*/lib")
_SONAME = re.compile(r"\.so\.(\d+(?:\.\d+)*)$")


def gather(probe: Probe, nvidia: Nvidia) -> Facts:
    """Every version that is known here."""
    found: dict[str, tuple[str, ...]] = {name: (package.version,) for name, package in probe.packages.items()}
    found["python"] = (platform.python_version(),)
    if nvidia.driver is not None:
        found["nvidia-driver"] = (nvidia.driver,)
    if nvidia.gpus:
        found["nvidia-gpu"] = tuple(dict.fromkeys(gpu.compute for gpu in nvidia.gpus))
    for name, (file, pattern) in _BUILT_FOR.items():
        if built := pattern.search(probe.package_text(file)):
            found[name] = (built[1],)
    for name, (package, library) in _LIBRARIES.items():
        if versions := _library(probe, package, library):
            found[name] = versions
    return found


def _library(probe: Probe, package: re.Pattern[str], library: str) -> tuple[str, ...]:
    installed = [about.version for name, about in probe.packages.items() if package.fullmatch(name)]
    files = probe.files(*(f"{folder}/{library}.so.*" for folder in _FOLDERS))
    lying = [match[1] for file in files if (match := _SONAME.search(file.name))]
    return tuple(dict.fromkeys([*installed, *lying]))
