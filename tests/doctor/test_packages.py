"""What is said of installed packages, from their own metadata."""

from tests.doctor.places import Place, write

from headway.doctor import packages
from headway.doctor.facts import gather
from headway.doctor.finding import Finding, Severity
from headway.doctor.nvidia import Gpu, Nvidia
from headway.doctor.rules import load

NEEDS = ["numpy>=2.0", "onnxruntime>=1.20", 'torch>=2.9; extra == "ship"', 'uvloop; sys_platform == "win32"']


def found(place: Place) -> dict[str, Finding]:
    """What is not as it should be, by package."""
    probe = place.probe
    said = packages.check(probe, load(), gather(probe, Nvidia()))
    return {finding.what: finding for finding in said if finding.severity is not Severity.OK}


def test_all_is_well(place: Place) -> None:
    place.install({"headway": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1"}, headway=NEEDS)
    assert found(place) == {}


def test_a_missing_library(place: Place) -> None:
    place.install({"headway": "0.1.0", "numpy": "2.4.6"}, headway=NEEDS)
    said = found(place)["headway"]
    assert said.severity is Severity.FAIL
    assert "onnxruntime" in said.found


def test_another_package_brings_the_same_module(place: Place) -> None:
    place.install({"headway": "0.1.0", "numpy": "2.4.6", "onnxruntime-gpu": "1.31.1"}, headway=NEEDS)
    assert found(place) == {}


def test_a_library_that_is_too_old(place: Place) -> None:
    place.install({"headway": "0.1.0", "numpy": "1.26.4", "onnxruntime": "1.31.1"}, headway=NEEDS)
    assert "numpy 1.26.4 is not >=2.0" in found(place)["headway"].found


def test_an_extra_may_be_absent_but_not_of_another_version(place: Place) -> None:
    sound = {"headway": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1"}
    place.install(sound | {"torch": "2.1.0"}, headway=NEEDS)
    said = found(place)["headway[ship]"]
    assert said.severity is Severity.WARN
    assert "torch 2.1.0" in said.found


def test_what_libraries_require_in_turn(place: Place) -> None:
    place.install(
        {"headway": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1", "protobuf": "4.0", "deep": "1.0"},
        headway=NEEDS,
        onnxruntime=["protobuf>=4.25.8", "deep", 'sympy; extra == "symbolic"'],
        deep=["deeper>=2"],
        protobuf=["deep"],  # a circle ends
    )
    said = found(place)
    assert said["onnxruntime"].severity is Severity.WARN
    assert "protobuf >=4.25.8, and 4.0 is installed" in said["onnxruntime"].found
    assert said["deep"].severity is Severity.FAIL
    assert said["deep"].fix == "pip install 'deeper>=2'"


def test_headway_that_is_no_package(place: Place) -> None:
    assert found(place)["headway"].severity is Severity.FAIL


def test_metadata_that_is_damaged(place: Place) -> None:
    place.install({"headway": "0.1.0", "numpy": "2.4.6", "onnxruntime": "nightly"}, headway=[*NEEDS, "(((", "numpy"])
    write(place.sites / "gone-1.0.dist-info/RECORD", "")
    assert "onnxruntime nightly" in found(place)["headway"].found


def test_facts_come_from_metadata_text_and_libraries(place: Place) -> None:
    place.install({"torch": "2.13.0", "nvidia-cudnn-cu12": "9.7.1.26", "nvidia-cuda-runtime": "13.0.48"})
    write(place.sites / "torch/version.py", "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n")
    write(place.sites / "onnxruntime/capi/build_and_package_info.py", "cuda_version = '12.9'\n")
    write(place.root / "usr/lib/x86_64-linux-gnu/libcudart.so.12.4.127", "")
    write(place.root / "usr/local/cuda-12/lib64/libcudnn.so.8.9.2", "")
    facts = gather(place.probe, Nvidia("x", "570.1", (Gpu("a", 1, "8.6"), Gpu("b", 1, "8.6"))))
    assert facts["torch-cuda"] == ("12.8",)
    assert facts["onnxruntime-cuda"] == ("12.9",)
    assert facts["cuda-runtime"] == ("13.0.48", "12.4.127")
    assert facts["cudnn"] == ("9.7.1.26", "8.9.2")
    assert (facts["nvidia-driver"], facts["nvidia-gpu"]) == (("570.1",), ("8.6",))


def test_a_cpu_build_was_built_for_no_cuda(place: Place) -> None:
    place.install({"torch": "2.13.0+cpu"})
    write(place.sites / "torch/version.py", "__all__ = ['cuda']\ncuda: Optional[str] = None\nhip = '6.4'\n")
    assert "torch-cuda" not in gather(place.probe, Nvidia())
