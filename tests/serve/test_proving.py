"""Proving bundles in a process of its own."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.serve.numbered import numbered

from headway.core.errors import BundleError
from headway.serve.errors import LoadError, NotFoundError, UnavailableError
from headway.serve.proving import NICE, Job, Prover, open_proven


def job(*paths: Path, **more: Any) -> Job:
    fixed: dict[str, Any] = {
        "name": "numbered", "paths": paths, "most": 8, "variant": None, "threads": 1, "choose_seconds": 0,
        "public_key": None, "trust_any": False, "rows": (1, 4),
    }  # fmt: skip
    return Job(**{**fixed, **more})


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`script(text)` puts a shell script in Python's place."""

    def make(text: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\ncat > /dev/null\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return make


def test_a_proof_says_what_is_to_serve_and_opens_here(tmp_path: Path, home: Path) -> None:
    bundle = numbered(tmp_path, 3)
    (proof,) = Prover(60).prove(job(bundle.path))
    assert (proof.version, proof.digest, proof.choice.variant, proof.choice.threads) == ("3", bundle.digest, "fp32", 1)
    assert proof.path.is_relative_to(home)
    seen: list[Any] = []

    def open_it(threads: int) -> None:
        choice = proof.choice.model_copy(update={"threads": threads})
        loaded = open_proven(proof.model_copy(update={"choice": choice}), (1,))
        seen.append((loaded.version, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
        loaded.session.close()

    for threads in (1, 2):
        thread = threading.Thread(target=open_it, args=(threads,))
        thread.start()
        thread.join()
    assert seen == [("3", NICE), ("3", 0)], "threads of the session's own would serve at low priority"
    with pytest.raises(BundleError, match="changed after it was proved"):
        open_proven(proof.model_copy(update={"digest": "0" * 64}), (1,))


def test_the_same_bundle_twice_is_one_and_two_of_a_version_are_refused(tmp_path: Path, home: Path) -> None:
    one, other = numbered(tmp_path, 3), numbered(tmp_path, 4, sealed_as=3)
    assert len(Prover(60).prove(job(one.path, one.path))) == 1
    with pytest.raises(LoadError, match="two bundles are version 3"):
        Prover(60).prove(job(one.path, other.path))


def test_what_it_finds_wrong_comes_back_as_it_would_from_here(tmp_path: Path, home: Path) -> None:
    with pytest.raises(LoadError, match="no such bundle"):
        Prover(60).prove(job(tmp_path / "none"))
    with pytest.raises(NotFoundError, match="no model called 'numbered'") as caught:
        Prover(60).prove(job(references=("numbered:1",)))
    assert caught.value.remedy


def test_a_process_that_crashes_is_an_error_and_no_crash_here(home: Path, script: Any) -> None:
    script("echo before >&2; echo all went wrong >&2; kill -SEGV $$")
    with pytest.raises(LoadError, match="ended with signal 11: all went wrong"):
        Prover(60).prove(job())
    script("echo not an answer")
    with pytest.raises(LoadError, match="ended with exit code 0: it said nothing"):
        Prover(60).prove(job())


def test_it_has_low_priority(home: Path, script: Any) -> None:
    script("nice >&2; exit 3")
    with pytest.raises(LoadError, match=f"ended with exit code 3: {NICE}$"):
        Prover(60).prove(job())


def test_one_that_takes_too_long_is_ended(home: Path, script: Any) -> None:
    script("exec sleep 60")
    with pytest.raises(LoadError, match=r"not proved within 0\.2 s"):
        Prover(0.2).prove(job())


def test_closing_ends_what_is_under_way(home: Path, script: Any, tmp_path: Path) -> None:
    script(f"touch {tmp_path}/begun; exec sleep 60")
    prover = Prover(60)
    caught: list[type[Exception]] = []

    def prove() -> None:
        try:
            prover.prove(job())
        except UnavailableError as error:
            caught.append(type(error))

    thread = threading.Thread(target=prove)
    thread.start()
    while not (tmp_path / "begun").exists():
        threading.Event().wait(0.01)
    prover.close()
    thread.join(20)
    prove()
    assert caught == [UnavailableError, UnavailableError]
