"""Accelerators, with NVML's own answers put in its place: no GPU has run this."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from headway.observe import accelerators
from headway.observe.metrics import Metrics


class Library:
    """Stands where `libnvidia-ml.so` does: two devices, of which the second tells no power."""

    def __init__(self) -> None:
        self.shut_down = 0

    def put_into(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def power(device: int) -> int:
            if device:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return 71_500

        def shut_down() -> None:
            self.shut_down += 1

        answers: dict[str, Any] = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": shut_down,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUUID": lambda device: f"GPU-{device}",
            "nvmlDeviceGetUtilizationRates": lambda device: SimpleNamespace(gpu=35 * (device + 1), memory=3),
            "nvmlDeviceGetPowerUsage": power,
            "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(total=80 << 30, free=1, used=3 << 30),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)


def test_what_perf_analyzer_reads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    library.put_into(monkeypatch)
    found = accelerators.find()
    assert found is not None
    metrics = Metrics()
    metrics.accelerators = found
    assert b'gpu_uuid="' not in metrics.render()  # nobody asked yet
    found.read()
    lines = metrics.render().decode().splitlines()
    for line in (
        'nv_gpu_utilization{gpu_uuid="GPU-0"} 0.35',
        'nv_gpu_utilization{gpu_uuid="GPU-1"} 0.7',
        'nv_gpu_power_usage{gpu_uuid="GPU-0"} 71.5',
        'nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 85899345920.0',
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-0"} 3221225472.0',
    ):
        assert line in lines
    assert not [line for line in lines if line.startswith('nv_gpu_power_usage{gpu_uuid="GPU-1"')]
    found.close()
    assert library.shut_down == 1


def test_a_library_that_breaks_while_it_is_asked_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    library = Library()
    library.put_into(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", broken)
    assert accelerators.find() is None
    assert library.shut_down == 1


def test_without_a_driver_or_the_package_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert accelerators.find() is None
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert accelerators.find() is None
