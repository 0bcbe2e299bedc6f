"""What a bundle or a recipe needs, against machines that lack it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.doctor.places import GB, Place, write

from headway.bundles.bundle import Bundle
from headway.bundles.manifest import Accuracy, Latency, Manifest, Scorecard
from headway.core.errors import ConfigError, UsageError
from headway.core.machine import Machine
from headway.doctor import needs
from headway.doctor.doctor import examine
from headway.doctor.finding import Finding, Severity
from headway.doctor.rules import load

Seal = Callable[..., Bundle]
RECIPE = "name: x\ntask: {use: '%s'}\nsteps: [%s]\n"


def machine(*sets: str) -> Machine:
    return Machine(
        system="Linux", architecture="x86_64", cpu="Their CPU", cores=2, instruction_sets=sets, memory_mb=8000,
        python="3.11.7",
    )  # fmt: skip


def card(there: Machine, peak_memory_mb: float) -> Scorecard:
    accuracy = Accuracy(
        metric="accuracy", value=1, interval=(1, 1), kept=1, kept_interval=(1, 1), confidence=0.95, rows=9
    )
    latency = Latency(p50=1, p90=1, p99=1, p99_low=1, p99_high=1, runs=9)
    return Scorecard(
        accuracy=accuracy, latency_ms=latency, speedup=(1, 1, 1), throughput=1, throughput_batch=1, size_mb=1,
        size_ratio=1, peak_memory_mb=peak_memory_mb, threads=1, reference="eager", machine=there,
    )  # fmt: skip


def changed(bundle: Bundle, **variant: object) -> Bundle:
    """The bundle as if it had a variant of another kind beside its own."""
    other = bundle.manifest.variants[0].model_copy(update={"id": "int8", "precision": "int8", **variant})
    manifest: Manifest = bundle.manifest.model_copy(
        update={"variants": (*bundle.manifest.variants, other), "chosen": "int8"}
    )
    return Bundle(bundle.path, manifest, bundle.digest)


def wrong(bundle: Bundle, place: Place, here: Machine | None = None) -> dict[str, Finding]:
    found = needs.of_bundle(bundle, place.probe, load(), here or machine("avx2"))
    return {f"{f.area}: {f.what}": f for f in found if f.severity is not Severity.OK and f.what != "ports"}


@pytest.fixture
def ready(place: Place) -> Place:
    place.install({"headway": "0.1.0", "onnxruntime": "1.31.1"}, headway=["onnxruntime", "torch; extra == 'ship'"])
    return place


def test_all_that_it_needs_is_here(seal_linear: Seal, ready: Place) -> None:
    assert wrong(seal_linear(), ready) == {}


def test_no_runtime_is_here(seal_linear: Seal, place: Place) -> None:
    found = wrong(seal_linear(), place)["bundle: runtimes"]
    assert found.severity is Severity.FAIL
    assert found.fix == "pip install onnxruntime"


def test_one_of_two_runtimes_is_here(seal_linear: Seal, ready: Place) -> None:
    found = wrong(changed(seal_linear(), runtime="abacus"), ready)["bundle: runtimes"]
    assert found.severity is Severity.WARN
    assert "int8 needs abacus" in found.found


def test_less_memory_than_was_measured(seal_linear: Seal, ready: Place) -> None:
    bundle = changed(seal_linear(), scorecard=card(machine("avx2"), peak_memory_mb=5000))
    ready.memory(4 * GB)
    found = wrong(bundle, ready)["bundle: memory"]
    assert found.severity is Severity.FAIL
    assert "5.0 GB (measured), 4.0 GB are free" in found.found
    assert "--variant fp32" in found.fix


def test_memory_for_one_but_not_for_all_variants(seal_linear: Seal, ready: Place) -> None:
    bundle = changed(seal_linear(), scorecard=card(machine("avx2"), peak_memory_mb=3999.9999))
    ready.memory(4 * GB)
    found = wrong(bundle, ready)["bundle: memory"]
    assert found.severity is Severity.WARN
    assert "at the first start" in found.found


@pytest.mark.parametrize(("sets", "saturates"), [(("avx2",), True), (("avx2", "avx512_vnni"), False)])
def test_int8_that_was_measured_with_vnni(
    seal_linear: Seal, ready: Place, sets: tuple[str, ...], saturates: bool
) -> None:
    bundle = changed(seal_linear(), scorecard=card(machine("avx2", "avx512_vnni"), peak_memory_mb=1))
    assert ("bundle: int8" in wrong(bundle, ready, machine(*sets))) is saturates


def test_no_room_for_the_copy(seal_linear: Seal, ready: Place) -> None:
    ready.free = 10
    assert wrong(seal_linear(), ready)["disk: room"].severity is Severity.FAIL


def test_processing_without_its_package(tmp_path: Path, home: Path, ready: Place) -> None:
    from tests.processing.fixtures import pack_pictures

    bundle = pack_pictures(tmp_path)
    found = wrong(bundle, ready)["bundle: processing"]
    assert (found.severity, found.fix) == (Severity.FAIL, "pip install 'headway[images]'")
    ready.install({"pillow": "0.1"})
    assert wrong(bundle, ready)["bundle: processing"].severity is Severity.WARN  # not the version it was sealed with


def test_a_bundle_is_found_by_path_and_by_reference(seal_linear: Seal, ready: Place) -> None:
    from headway.registry.registry import Registry

    Registry().add(seal_linear())
    for target in (str(seal_linear().path), "linear"):
        report = examine(target, probe=ready.probe)
        assert any(f.area == "bundle" and f.what == "runtimes" for f in report.findings)
    with pytest.raises(UsageError):
        examine("nowhere/at/all", probe=ready.probe)


def test_an_archive_and_no_place_to_unpack_it(
    seal_linear: Seal, ready: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway.bundles.archive import archive

    archive(seal_linear(), tmp_path / "x.hw")
    monkeypatch.setenv("HEADWAY_HOME", "/proc/headway")
    found = examine(str(tmp_path / "x.hw"), probe=ready.probe).findings[-1]
    assert (found.area, found.severity) == ("bundle", Severity.FAIL)


def recipe(place: Place, folder: Path, use: str, steps: str = "") -> dict[str, Finding]:
    path = write(folder / "recipe.yaml", RECIPE % (use, steps))
    found = examine(str(path), probe=place.probe).findings
    return {f.what: f for f in found if f.area == "recipe"}


def test_a_recipe(ready: Place, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    write(tmp_path / "mine.py", f"open({str(mark)!r}, 'w')\n")
    found = recipe(ready, tmp_path, "mine.py:task")
    assert found["task"].severity is Severity.OK
    assert "not run" in found["task"].found
    assert not mark.exists()
    assert (found["headway[ship]"].severity, found["headway[ship]"].found) == (Severity.FAIL, "lacks torch")


@pytest.mark.parametrize("use", ["yours.py:task", "nobody.has.this:task", "nothing", ""])
def test_a_task_that_is_not_there(ready: Place, tmp_path: Path, use: str) -> None:
    assert recipe(ready, tmp_path, use)["task"].severity is Severity.FAIL


def test_a_step_that_nobody_offers(ready: Place, tmp_path: Path) -> None:
    assert "shrink" in recipe(ready, tmp_path, "os:x", "prune, shrink: {a: 1}")["steps"].found


def test_a_recipe_with_processing_needs_its_packages(ready: Place, tmp_path: Path) -> None:
    (tmp_path / "processing.yaml").write_text("inputs: {picture: [decode, normalise, feed: x]}\n")
    for given in ("processing.yaml", "{inputs: {picture: [decode, normalise, feed: x]}}"):
        path = write(tmp_path / "r.yaml", RECIPE % ("os:x", "") + f"processing: {given}\n")
        found = {f.what: f for f in examine(str(path), probe=ready.probe).findings if f.area == "recipe"}
        assert found["processing"].fix == "pip install 'headway[images]'"


def test_a_recipe_that_is_wrong(ready: Place, tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "name: x\ntsk: {}\n")
    with pytest.raises(ConfigError, match=r"r\.yaml:2"):
        examine(str(path), probe=ready.probe)
