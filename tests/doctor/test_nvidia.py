"""What is said of a driver and its GPUs."""

import pytest
from tests.doctor.places import Place

from headway.doctor import nvidia
from headway.doctor.finding import Finding, Severity

ROW = "NVIDIA A10, 535.104.05, 22731, 8.6"


def examined(place: Place) -> list[Finding]:
    return nvidia.check(place.probe, nvidia.look(place.probe))


def test_no_gpu(place: Place) -> None:
    assert [(f.severity, f.found) for f in examined(place)] == [(Severity.OK, "none")]


def test_a_gpu_that_works(place: Place) -> None:
    place.driver("535.104.05", ROW)
    found = nvidia.look(place.probe)
    assert found.driver == "535.104.05"
    assert found.gpus == (nvidia.Gpu("NVIDIA A10", 22731 << 20, "8.6"),)
    assert {f.severity for f in examined(place)} == {Severity.OK}


def test_the_open_kernel_module_spells_its_version_otherwise(place: Place) -> None:
    place.driver("x")
    path = place.root / "proc/driver/nvidia/version"
    path.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (a)\n")
    assert nvidia.look(place.probe).driver == "570.86.15"


def test_a_gpu_without_a_driver(place: Place) -> None:
    place.card()
    (found,) = examined(place)
    assert found.severity is Severity.WARN
    assert "no driver" in found.found
    assert "Install" in found.fix


@pytest.mark.parametrize("told", ["garbage", "", "version 5 3 5"])
def test_a_driver_whose_version_cannot_be_read(place: Place, told: str) -> None:
    place.driver(told)
    (found,) = examined(place)
    assert found.severity is Severity.FAIL
    assert "cannot be read" in found.found


def test_a_driver_that_was_updated_under_a_running_kernel(place: Place) -> None:
    place.driver("535.104.05", "Failed to initialize NVML: Driver/library version mismatch", code=18)
    (found,) = examined(place)
    assert found.severity is Severity.FAIL
    assert "version mismatch" in found.found
    assert "again" in found.fix


def test_an_answer_that_is_no_table(place: Place) -> None:
    place.driver("535.104.05", "No devices were found")
    assert [f.severity for f in examined(place)] == [Severity.FAIL]


def test_without_nvidia_smi(place: Place) -> None:
    place.driver("535.104.05")
    (found,) = examined(place)
    assert found.severity is Severity.WARN


def test_other_makers_are_named(place: Place) -> None:
    place.card("0x1002")
    assert [f.what for f in examined(place)] == ["AMD", "NVIDIA"]
