"""Proves bundles in a process of its own, at low priority, while the server goes on answering.

Run as `python -m headway.serve.proving`: a `Job` on stdin, an `Answer` on stdout. Everything that is slow or that could
go wrong in a bundle happens there: it is looked up, hashed, its signature checked, copied, its variants measured and
its golden samples replayed. What is left to the server is to open one session that is known to work. A process can be
stopped at any moment, takes its memory with it, and if a model brings the runtime down, brings down no server. Why not
a thread of low priority: docs/decisions/0025.
"""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from headway.bundles.bundle import Bundle
from headway.bundles.processing import open_processing
from headway.core.errors import BundleError, HeadwayError, UsageError
from headway.processing.stage import Limits
from headway.serve.choice import Choice
from headway.serve.errors import LoadError, NotFoundError, UnavailableError
from headway.serve.loading import Loaded, load_bundle, open_variant, warm_up
from headway.serve.padding import proven

NICE = 10  # on a core that the server keeps busy it still gets a tenth of the time


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Job(_Message):
    """Bundles to prove, all of one model.

    Attributes:
        name: of the model, which the bundles must have.
        paths: of bundles.
        references: into the registry.
        newest: so many of the registry's versions of the model, the highest, are proved as well.
        most: bundles at most.
        rows: sizes of batches to run.
    """

    name: str
    paths: tuple[Path, ...] = ()
    references: tuple[str, ...] = ()
    newest: int = 0
    most: int
    variant: str | None
    threads: int | None
    choose_seconds: float
    public_key: Path | None
    trust_any: bool
    rows: tuple[int, ...]
    max_pixels: int = Limits.max_pixels
    max_text_bytes: int = Limits.max_text_bytes


class Proof(_Message):
    """A bundle that was proved: where its private copy lies, and what is to serve of it."""

    path: Path
    version: str
    digest: str
    choice: Choice


class Answer(_Message):
    """Proofs, or what is wrong."""

    proofs: tuple[Proof, ...] = ()
    error: str = ""
    where: str | None = None
    remedy: str | None = None
    unknown: bool = False


class Prover:
    """Starts the processes. Its methods may be called from any thread."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def prove(self, job: Job) -> tuple[Proof, ...]:
        """Prove bundles; blocks until that is done.

        Raises:
            NotFoundError: the registry knows of none.
            LoadError: a bundle does not load.
            UnavailableError: `close` was called.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError("the server is shutting down")
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "headway.serve.proving"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            self._children.add(child)
        with contextlib.suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, child.pid, NICE)
        try:
            out, err = child.communicate(job.model_dump_json().encode(), self._timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise LoadError(f"not proved within {self._timeout_s:g} s", where=job.name) from None
        finally:
            self._children.discard(child)
        if self._closed:
            raise UnavailableError("the server is shutting down")
        return _read(job, child.returncode, out, err)

    def close(self) -> None:
        """End what is under way; nothing is proved any more."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()


def open_proven(proof: Proof, rows: tuple[int, ...], limits: Limits = Limits()) -> Loaded:  # noqa: B008  (it is immutable)
    """The session that a proof speaks of, in this process: it replays the golden samples here too, and is warmed up.

    To be called in a thread that does nothing else afterwards: its priority is lowered.

    Raises:
        BundleError: the private copy is not what was proved, or answers otherwise here.
    """
    if proof.choice.threads == 1:  # a session's own threads would inherit it, and serve with it
        _lower_this_thread()
    bundle = Bundle.open(proof.path)
    if bundle.digest != proof.digest:
        raise BundleError("the bundle changed after it was proved", where=str(proof.path))
    processing = open_processing(bundle, limits)
    variant = bundle.manifest.variant(proof.choice.variant)
    session = open_variant(bundle, variant, proof.choice.threads)
    padding = proven(bundle, variant, session)
    loaded = Loaded(bundle, proof.version, variant, session, proof.choice, processing, padding)
    try:
        warm_up(loaded, rows)
    except BaseException:
        loaded.session.close()
        raise
    return loaded


def _lower_this_thread() -> None:
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _read(job: Job, code: int, out: bytes, err: bytes) -> tuple[Proof, ...]:
    try:
        if code:
            raise ValueError
        answer = Answer.model_validate_json(out)
    except (ValidationError, ValueError):
        last = (err.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:300]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise LoadError(f"the process that proves it ended with {how}: {last}", where=job.name) from None
    if answer.error:
        kind = NotFoundError if answer.unknown else LoadError
        raise kind(answer.error, where=answer.where, remedy=answer.remedy)
    return answer.proofs


# In the process


def main() -> None:
    """Answer the job on stdin."""
    job = Job.model_validate_json(sys.stdin.buffer.read())
    with contextlib.redirect_stdout(sys.stderr):  # libraries print
        answer = _answer(job)
    sys.stdout.write(answer.model_dump_json())


def _answer(job: Job) -> Answer:
    try:
        registered = _registered(job)
    except UsageError as error:
        return _failure(error, unknown=True)
    try:
        sources = [*((Bundle.open(path), None) for path in job.paths), *registered]
        if len(sources) > job.most:
            raise LoadError(f"{len(sources)} versions, but at most {job.most} are served at once", where=job.name)
        proofs: dict[str, Proof] = {}
        for bundle, version in sources:
            proof = _prove(job, bundle, version)
            if proof.version in proofs and proofs[proof.version].digest != proof.digest:
                raise LoadError(f"two bundles are version {proof.version}", where=job.name)
            proofs[proof.version] = proof
        return Answer(proofs=tuple(proofs.values()))
    except HeadwayError as error:
        return _failure(error)


def _registered(job: Job) -> list[tuple[Bundle, str]]:
    """What is to come from the registry, each with its number there; an alias is what it points at now."""
    if not job.references and not job.newest:
        return []
    from headway.registry.registry import Registry

    registry = Registry()
    found = [registry.resolve(reference) for reference in job.references]
    found += registry.show(job.name)[: job.newest] if job.newest else ()
    return [(registry.open(f"{entry.name}:{entry.version}"), entry.version) for entry in found[: job.most + 1]]


def _prove(job: Job, bundle: Bundle, version: str | None) -> Proof:
    if bundle.manifest.name != job.name:
        raise LoadError(f"the bundle there is called {bundle.manifest.name!r}", where=job.name)
    loaded = load_bundle(
        bundle,
        version=version,
        variant=job.variant,
        threads=job.threads,
        choose_seconds=job.choose_seconds,
        public_key=job.public_key,
        trust_any=job.trust_any,
        limits=Limits(job.max_pixels, job.max_text_bytes),
    )
    try:
        warm_up(loaded, job.rows)
    finally:
        loaded.session.close()
    return Proof(path=loaded.bundle.path, version=loaded.version, digest=loaded.bundle.digest, choice=loaded.choice)


def _failure(error: HeadwayError, *, unknown: bool = False) -> Answer:
    return Answer(error=error.message, where=error.where, remedy=error.remedy, unknown=unknown)


if __name__ == "__main__":
    main()
