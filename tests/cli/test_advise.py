"""`headway advise` as a user meets it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.measure.graphs import chain

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle

COMMAND = [sys.executable, "-c", "from headway.cli.main import main; main()", "advise"]
HERE = """
hardware:
  - name: here
    watts: {value: 40, source: coral, how: guessed}
    price_usd: {value: 700, source: coral, how: guessed}
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, arguments), "--seconds", "0.1"], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_model_on_every_machine_with_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run(chain(tmp_path / "a.onnx", [16, 16], size=32), "--rps", 50, "--html", page)
    assert done.returncode == 0, done.stderr
    assert "50 rows a second" in done.stdout
    assert "Raspberry Pi 5, 8 GB" in done.stdout
    assert "Coral USB, at a host that is there: it computes in int8 only" in done.stdout
    text = page.read_text()
    assert "<svg" in text
    assert "https://coral.ai" in text
    assert "vendor, unchecked" in text


def test_a_bundle_as_a_document_with_what_this_machine_costs(
    tmp_path: Path, seal_linear: "Callable[..., Bundle]"
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(HERE)
    done = run(seal_linear().path, "--machines", own, "--p99", 1000, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    machines = {each["name"]: each for each in found["machines"]}
    here = machines["here"]
    assert here["run_ms"]["mark"] == "measured"
    assert here["cost_parts_usd"]["hardware"]["value"] >= 700
    assert here["figures"]["watts"]["mark"] == "modelled"
    assert machines["T4 (g4dn.xlarge)"]["run_ms"]["mark"] == "modelled"
    assert machines["T4 (g4dn.xlarge)"]["figures"]["watts"]["mark"] == "vendor"
    costs = [each["cost_usd"]["value"] for each in found["machines"] if each.get("cost_usd")]
    assert costs == sorted(costs)
    assert found["counted"]["operations"] > 0
    assert 0 < found["here"]["efficiency"] <= 1
    assert all(each["source"] in found["sources"] for m in found["machines"] for each in m["figures"].values())


def test_a_bound_that_nothing_keeps_is_told(tmp_path: Path) -> None:
    done = run(chain(tmp_path / "a.onnx", [4, 4]), "--p99", 0.000001, "--json")
    assert done.returncode == 0, done.stderr
    assert all(each["why_not"] for each in json.loads(done.stdout)["machines"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--machines", "absent.yaml"), "no such file"),
        (("--inputs", "absent.npz"), "absent.npz"),
    ],
)
def test_what_will_not_do_is_the_users_mistake(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(chain(tmp_path / "a.onnx", [4, 4]), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
