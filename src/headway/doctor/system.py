"""The machine: its processor, its memory, where it keeps files, and what a container allows."""

import os
import resource
import socket
import tempfile
import time
from pathlib import Path

from headway.core import machine
from headway.core.cgroup import limits
from headway.core.errors import StorageError
from headway.core.files import home
from headway.core.machine import Machine
from headway.doctor.finding import Finding, fail, megabytes, ok, warn
from headway.doctor.probe import Probe

LITTLE_MEMORY = 512e6  # bytes; a server with a small model takes 150 to 250 MB
LITTLE_DISK = 1e9
_ELSEWHERE = "Or set HEADWAY_HOME to a folder on another disk."
_DESCRIPTORS = 2 * 1024 + 256  # `max_connections` of REST and of gRPC, and files


def check(probe: Probe, here: Machine) -> list[Finding]:
    """What is there whatever is to run."""
    return [_cpu(here), _memory(probe), *_container(probe), _state(probe), *_descriptors(), *_clock()]


def _cpu(here: Machine) -> Finding:
    found = f"{here.summary()}; int8: {here.int8.reason}"
    if here.architecture in ("x86_64", "AMD64") and "avx2" not in here.instruction_sets:
        return warn("cpu", "processor", f"{found}. It has no AVX2", "Run on a processor with AVX2: kernels fall back.")
    return ok("cpu", "processor", found)


def _memory(probe: Probe) -> Finding:
    total, free = machine.memory(probe.root)
    found = f"{megabytes(free)} free of {megabytes(total)}"
    if free < LITTLE_MEMORY:
        return warn("memory", "memory", found, "End other processes, or give the machine or the container more.")
    return ok("memory", "memory", found)


def _container(probe: Probe) -> list[Finding]:
    found, group = [], limits(probe.root)
    if group.memory is not None:
        found.append(ok("container", "memory limit", megabytes(group.memory)))
    if group.cores is not None and group.cores < 1:
        words = f"{group.cores:g} of a core: every run is stopped again and again, and p99 shows it"
        found.append(warn("container", "CPU quota", words, "Give the container a whole core: docker run --cpus 1."))
    elif group.cores is not None:
        found.append(ok("container", "CPU quota", f"{group.cores:g} cores"))
    return found or [ok("container", "limits", "none")]


def _state(probe: Probe) -> Finding:
    """Whether `HEADWAY_HOME` can be written. It is tried: permissions tell root nothing, and mounts tell nobody."""
    try:
        folder = home()
    except StorageError as error:
        return fail("disk", "HEADWAY_HOME", f"{error.where}: {error.message}", error.remedy or "")
    stands = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=stands) as file:
            file.write(b"x")
        free = probe.free(stands)
    except OSError as error:
        return fail(
            "disk", "HEADWAY_HOME", f"{stands} cannot be written: {error.strerror}", f"Make it writable. {_ELSEWHERE}"
        )
    found = f"{folder}, {megabytes(free)} free"
    if free < LITTLE_DISK:
        return warn("disk", "HEADWAY_HOME", found, f"Free space. {_ELSEWHERE}")
    return ok("disk", "HEADWAY_HOME", found)


def space(probe: Probe) -> int | None:
    """Bytes free for `HEADWAY_HOME`; None where there can be none."""
    try:
        folder = home()
        return probe.free(next(place for place in (folder, *folder.parents) if place.exists()))
    except (StorageError, OSError):
        return None


def _descriptors() -> list[Finding]:
    """The server raises its own limit as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= _DESCRIPTORS:
        return []
    words = f"at most {hard}, where a server takes up to {_DESCRIPTORS}"
    return [warn("system", "open files", words, "Raise the limit (ulimit -Hn), or lower max_connections.")]


def _clock() -> list[Finding]:
    """A clock before the day that this was installed is wrong; signatures, certificates and logs then are, too."""
    installed = Path(__file__).stat().st_mtime
    if time.time() >= installed - 86400:
        return []
    return [warn("system", "clock", f"it says {time.strftime('%F')}, before Headway was installed", "Set the clock.")]


def listening(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
