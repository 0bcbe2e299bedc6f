"""What runs here: "ready" only after a run, and what is missing told apart from what is not here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.doctor.places import Place, write

from headway.doctor.runtimes import Listed, listed
from headway.doctor.trial import Outcome

HEADWAY = "from headway.cli.main import main; import sys; sys.argv[0] = 'headway'; main()"


def states(found: list[Listed]) -> dict[tuple[str, str], str]:
    return {(it.runtime, it.device): it.state for it in found}


def test_this_machine_is_tried_and_said_as_json() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", HEADWAY, "runtimes", "--json"], capture_output=True, text=True, check=True
    )
    found = {(it["runtime"], it["device"]): it for it in json.loads(asked.stdout)["runtimes"]}
    ours = found["onnxruntime", "cpu"]
    assert ours["state"] == "ready"
    assert "the numbers are right" in ours["detail"]
    assert {it["state"] for it in found.values() if it["runtime"] in ("tvm", "litert")} == {"not offered"}


def test_a_device_that_is_not_here_is_not_tried(tmp_path: Path) -> None:
    tried: list[tuple[str, ...]] = []

    def attempt(name: str, *arguments: str) -> Outcome:
        tried.append((name, *arguments[1:]))
        return Outcome("right", "the numbers are right")

    found = states(listed(Place(tmp_path).probe, attempt=attempt))
    assert ("onnxruntime", "cpu") in tried
    assert {arguments for _, *rest in tried if (arguments := tuple(rest))} == {("cpu",)}
    assert found["onnxruntime", "cuda"] == found["onnxruntime", "rocm"] == "not on this machine"
    assert found["torch eager", "cpu"] == "not installed"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("right", "ready"),
        ("absent", "not installed"),
        ("untried", "not tried"),
        ("wrong", "broken"),
        ("died", "broken"),
    ],
)
def test_a_device_that_is_here_is_tried_and_only_right_numbers_make_it_ready(
    outcome: str, state: str, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    place.driver("550.54")
    place.install({"torch": "2.13.0"})
    found = states(listed(place.probe, attempt=lambda name, *rest: Outcome(outcome, "as it is")))  # type: ignore[arg-type]
    assert {found["onnxruntime", "cuda"], found["onnxruntime", "tensorrt"], found["torch eager", "cpu"]} == {state}
    assert found["onnxruntime", "xpu"] == "not on this machine"


def test_a_gpu_without_the_build_for_it_says_what_to_install(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.driver("550.54")
    found = {(it.runtime, it.device): it for it in listed(place.probe)}["onnxruntime", "cuda"]
    assert found.state == "not installed"
    assert "pip install onnxruntime-gpu" in found.detail


def test_intels_gpu_is_told_from_others(tmp_path: Path) -> None:
    place = Place(tmp_path)
    vendor = write(place.root / "sys/class/drm/renderD128/device/vendor", "0x1002\n")
    right = Outcome("right", "the numbers are right")
    assert states(listed(place.probe, attempt=lambda *_: right))["onnxruntime", "xpu"] == "not on this machine"
    vendor.write_text("0x8086\n")
    assert states(listed(place.probe, attempt=lambda *_: right))["onnxruntime", "xpu"] == "ready"
