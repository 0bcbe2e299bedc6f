"""The registry: names, versions and aliases, under several processes and when one of them is killed."""

import gc
import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
import pytest

from headway.bundles.bundle import Bundle
from headway.core.errors import BundleError, HeadwayError, StorageError, TamperedError, UsageError
from headway.registry.registry import Registry

Seal = Callable[..., Bundle]


def test_add_and_resolve(seal_linear: Seal, home: Path) -> None:
    registry = Registry()
    first = registry.add(seal_linear())
    second = registry.add(seal_linear(version="2", seed=1))
    assert [(e.name, e.version) for e in registry.list()] == [("linear", "2"), ("linear", "1")]
    assert registry.show("linear") == registry.list()
    assert registry.resolve("linear") == registry.resolve("linear@latest") == registry.resolve("linear:2") == second
    assert registry.resolve("linear:1") == first
    assert first.accuracy is None
    assert (first.chosen, len(first.digest), len(first.signer)) == ("fp32", 64, 64)
    assert first.created <= first.added
    bundle = registry.open("linear:1")
    bundle.verify()
    assert bundle.path.is_relative_to(home / "registry")
    assert (home / "registry").stat().st_mode & 0o077 == 0


def test_the_same_bundle_again_changes_nothing(seal_linear: Seal, home: Path) -> None:
    registry, bundle = Registry(), seal_linear()
    entry = registry.add(bundle)
    assert registry.add(bundle) == registry.add(bundle, version="1") == entry
    with pytest.raises(BundleError, match="already registered as linear:1"):
        registry.add(bundle, version="2")
    assert len(registry.list()) == 1


def test_a_version_taken_by_other_content(seal_linear: Seal, home: Path) -> None:
    registry = Registry()
    entry = registry.add(seal_linear())
    with pytest.raises(BundleError, match="version 1 of 'linear' is taken") as caught:
        registry.add(seal_linear(seed=1))
    assert caught.value.remedy is not None
    assert "--version 2" in caught.value.remedy
    assert registry.list() == (entry,)
    assert registry.add(seal_linear(seed=1), version="2").version == "2"


def test_the_registry_keeps_its_own_copy(seal_linear: Seal, home: Path) -> None:
    registry, bundle = Registry(), seal_linear()
    registry.add(bundle)
    shutil.rmtree(bundle.path)
    registry.open("linear").verify()


@pytest.mark.parametrize("again", [False, True])
def test_a_tampered_bundle_is_not_registered(seal_linear: Seal, home: Path, again: bool) -> None:
    registry, bundle = Registry(), seal_linear()
    if again:
        registry.add(bundle)
    (bundle.path / "report.html").write_text("<p>evil</p>")
    with pytest.raises(TamperedError, match=r"report\.html"):
        registry.add(bundle)
    assert len(registry.list()) == again
    assert len(list((home / "registry" / "bundles").glob("*"))) == again


def test_a_strangers_bundle_is_not_registered(
    seal_linear: Seal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = seal_linear()
    key = tmp_path / "key.pem"
    key.write_text(bundle.manifest.signer)
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "here"))
    registry = Registry()
    with pytest.raises(BundleError, match="not trusted"):
        registry.add(bundle)
    assert registry.list() == ()
    assert registry.add(bundle, public_key=key).version == "1"


def test_aliases(seal_linear: Seal, home: Path) -> None:
    registry = Registry()
    registry.add(seal_linear())
    registry.add(seal_linear(version="2", seed=1))
    assert registry.alias("linear", "prod", "1").aliases == ("prod",)
    assert registry.resolve("linear@prod").version == "1"
    assert registry.alias("linear", "prod", "2").version == "2"
    assert registry.resolve("linear:1").aliases == ()
    registry.alias("linear", "canary", "1")
    registry.unalias("linear", "canary")
    with pytest.raises(UsageError, match="no alias 'prd'") as caught:
        registry.resolve("linear@prd")
    assert caught.value.remedy == "Did you mean 'prod'?"
    for bad in ("latest", "3", "a/b", ""):
        with pytest.raises(UsageError, match="cannot be an alias"):
            registry.alias("linear", bad, "1")
    with pytest.raises(UsageError, match="no version 7"):
        registry.alias("linear", "prod", "7")


def test_numbers_are_not_given_twice(seal_linear: Seal, home: Path) -> None:
    registry = Registry()
    assert registry.next_version("linear") == "1"
    registry.add(seal_linear())
    registry.add(seal_linear(seed=1), version="5")
    assert registry.next_version("linear") == "6"
    registry.remove("linear:5")
    assert registry.next_version("linear") == "6"
    assert registry.resolve("linear").version == "1"


def test_remove(seal_linear: Seal, home: Path) -> None:
    registry = Registry()
    entry = registry.add(seal_linear())
    registry.alias("linear", "prod", "1")
    with pytest.raises(UsageError, match="linear:1 is prod"):
        registry.remove("linear")
    registry.unalias("linear", "prod")
    assert registry.remove("linear").digest == entry.digest
    assert registry.list() == ()
    assert list((home / "registry" / "bundles").iterdir()) == []
    assert registry.add(seal_linear()).version == "1"


@pytest.mark.parametrize(
    ("ref", "message", "remedy"),
    [
        ("liner", "no model called 'liner'", "Did you mean 'linear'?"),
        ("zzz", "no model called 'zzz'", "Known: linear"),
        ("linear:9", "no version 9; it has 1", None),
        ("../linear", "not of the form", None),
        ("linear:0", "not of the form", None),
        ("linear:1@x", "not of the form", None),
        ("linear:1 OR 1=1", "not of the form", None),
        ("", "not of the form", None),
        ("linear:99999999999999999999", "not of the form", None),
    ],
)
def test_unknown_references(seal_linear: Seal, home: Path, ref: str, message: str, remedy: str | None) -> None:
    registry = Registry()
    registry.add(seal_linear())
    with pytest.raises(UsageError, match=message) as caught:
        registry.resolve(ref)
    assert caught.value.remedy == remedy


def test_an_empty_registry_says_how_to_fill_it(home: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Registry().resolve("linear")
    assert caught.value.remedy is not None
    assert "registry add" in caught.value.remedy


def test_files_that_are_gone(seal_linear: Seal, home: Path) -> None:
    registry, bundle = Registry(), seal_linear()
    registry.add(bundle)
    shutil.rmtree(home / "registry" / "bundles" / bundle.digest)
    with pytest.raises(BundleError, match="its files are gone"):
        registry.open("linear")
    registry.add(bundle)
    registry.open("linear").verify()


def test_no_connection_is_left_open(seal_linear: Seal, home: Path) -> None:
    registry = Registry()
    registry.add(seal_linear())
    registry.list()
    gc.collect()
    assert not [file.path for file in psutil.Process().open_files() if "registry.db" in file.path]


def test_a_damaged_database_and_one_of_the_future(home: Path) -> None:
    Registry()
    path = home / "registry" / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StorageError, match="newer Headway"):
        Registry()
    for left in path.parent.glob("registry.db*"):
        left.unlink()
    path.write_bytes(b"this is no database, but some text that is long enough to be looked at" * 20)
    with pytest.raises(StorageError, match="cannot be used"):
        Registry()


def test_an_object_store_through_fsspec(seal_linear: Seal, home: Path) -> None:
    registry, bundle = Registry(files="memory://bundles-of-a-test"), seal_linear()
    registry.add(bundle)
    opened = registry.open("linear")
    opened.verify()
    assert opened.path.is_relative_to(home / "cache")
    registry.remove("linear")
    assert registry.list() == ()
    with pytest.raises(UsageError):
        registry.open("linear")


def add_at_once(home: str, path: str, version: str | None, start: Barrier) -> tuple[str, str]:
    os.environ["HEADWAY_HOME"] = home
    start.wait()
    try:
        return "added", Registry().add(Bundle.open(Path(path)), version=version).version
    except HeadwayError as error:
        return type(error).__name__, error.message


def run_two(home: Path, asked: list[tuple[Bundle, str | None]]) -> list[tuple[str, str]]:
    """Two processes that add at the same moment."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(2) as pool:
        start = manager.Barrier(2)
        found = pool.starmap(
            add_at_once, [(str(home), str(bundle.path), version, start) for bundle, version in asked], chunksize=1
        )
        pool.close()
        pool.join()
    return found


def test_two_processes_add_the_same_bundle(seal_linear: Seal, home: Path) -> None:
    bundle = seal_linear()
    assert run_two(home, [(bundle, None), (bundle, None)]) == [("added", "1")] * 2
    assert len(Registry().list()) == 1
    Registry().open("linear").verify()


def test_two_processes_want_the_same_version(seal_linear: Seal, home: Path) -> None:
    """Neither has seen the registry before, so that they make the database at once as well."""
    found = run_two(home, [(seal_linear(), None), (seal_linear(seed=1), None)])
    assert sorted(kind for kind, _ in found) == ["BundleError", "added"]
    assert len(Registry().list()) == 1
    Registry().open("linear").verify()


def add_for_ever(home: str, paths: list[str], ready: Connection) -> None:
    os.environ["HEADWAY_HOME"] = home
    registry = Registry()
    while True:
        for path in paths:
            entry = registry.add(Bundle.open(Path(path)))
            ready.send(entry.version)
        for entry in registry.list():
            registry.remove(f"{entry.name}:{entry.version}")


def test_a_killed_process_leaves_nothing_half_written(seal_linear: Seal, home: Path) -> None:
    bundles = [seal_linear(version=str(n), seed=n) for n in (1, 2, 3)]
    spawn = multiprocessing.get_context("spawn")
    for rounds in (1, 2, 5):
        ready, told = spawn.Pipe(duplex=False)
        process = spawn.Process(target=add_for_ever, args=(str(home), [str(b.path) for b in bundles], told))
        process.start()
        told.close()
        for _ in range(rounds):
            ready.recv()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        ready.close()
        registry = Registry()
        for entry in registry.list():
            registry.open(f"{entry.name}:{entry.version}").verify()
        for bundle in bundles:
            registry.add(bundle)
        kept = {folder.name for folder in (home / "registry" / "bundles").iterdir()}
        assert {bundle.digest for bundle in bundles} <= kept
        for entry in registry.list():
            registry.remove(f"{entry.name}:{entry.version}")
