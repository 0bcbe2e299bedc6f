"""NVIDIA accelerators, through NVML (the extra `[gpu]`): how busy they are, and what memory and power they use.

The names and units are Triton's, for `perf_analyzer` reads them. What a device does not tell is left out.
"""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

_GAUGES = {
    "nv_gpu_utilization": "Share of the time that the GPU was busy, 0 to 1.",
    "nv_gpu_power_usage": "Power that the GPU draws, in watts.",
    "nv_gpu_memory_total_bytes": "Memory of the GPU.",
    "nv_gpu_memory_used_bytes": "Memory of the GPU that is in use, by anybody.",
}


class Accelerators:
    """Every NVIDIA GPU of this machine. `read` takes milliseconds a device: not for an event loop."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        self._devices = [(str(nvml.nvmlDeviceGetUUID(handle)), handle) for handle in handles]
        self._readings: dict[str, dict[str, float]] = {}

    def read(self) -> None:
        """Ask the devices; `collect` tells what they said."""
        nvml = self._nvml
        asked: dict[str, Callable[[Any], float]] = {
            "nv_gpu_utilization": lambda device: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100,
            "nv_gpu_power_usage": lambda device: nvml.nvmlDeviceGetPowerUsage(device) / 1000,
            "nv_gpu_memory_total_bytes": lambda device: nvml.nvmlDeviceGetMemoryInfo(device).total,
            "nv_gpu_memory_used_bytes": lambda device: nvml.nvmlDeviceGetMemoryInfo(device).used,
        }
        readings: dict[str, dict[str, float]] = {name: {} for name in asked}
        for name, ask in asked.items():
            for uuid, device in self._devices:
                try:
                    readings[name][uuid] = float(ask(device))
                except nvml.NVMLError:  # not every device knows everything
                    continue
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """The gauges, by GPU."""
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=("gpu_uuid",))
            for uuid, value in self._readings.get(name, {}).items():
                gauge.add_metric([uuid], value)
            yield gauge

    def close(self) -> None:
        """Let NVML go."""
        self._nvml.nvmlShutdown()


def find() -> Accelerators | None:
    """The accelerators here; None without `nvidia-ml-py`, a driver or a device."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        found = Accelerators(pynvml)
    except pynvml.NVMLError:
        pynvml.nvmlShutdown()
        return None
    return found
