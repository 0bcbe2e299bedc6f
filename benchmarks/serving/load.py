"""Load from a process and a core of its own: `wrk` where callers wait for their answers, `poisson.py` elsewhere."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.serving import clock
from benchmarks.serving.models import ROOT
from benchmarks.serving.servers import LOAD_CORE, Running

_HERE = Path(__file__).parent


class Load(NamedTuple):
    """What one measurement found.

    Attributes:
        rate: requests answered a second.
        p50_ms: None where so many were not answered at all.
        p99_ms: likewise.
        errors: requests that were not answered, or not with success.
        cpu_s: CPU seconds of the server's first process meanwhile.
        requests: answered.
        run_s: CPU seconds of Headway's runs of the model meanwhile; 0 for another server.
        late_ms: how late the open-loop generator itself was, 99th percentile.
    """

    rate: float
    p50_ms: float | None
    p99_ms: float | None
    errors: int
    cpu_s: float
    requests: int
    run_s: float
    late_ms: float = 0.0


def write_bodies(server: Running, folder: Path) -> None:
    """Lay the requests out where the generators find them."""
    folder.mkdir(exist_ok=True)
    for number, body in enumerate(server.bodies):
        (folder / str(number)).write_bytes(body)


def closed(server: Running, bodies: Path, callers: int, seconds: float) -> Load:
    """`callers` connections, each of which asks again as soon as it is answered."""
    url = f"http://127.0.0.1:{server.port}{server.wire.path}"
    asked = ["-t", "1", "-c", str(callers), "-d", f"{seconds:.0f}s", "-s", _HERE / "post.lua", url, "--", bodies]
    found, cpu_s, run_s = _timed(server, ["wrk", *asked, str(len(server.bodies)), *_headers(server)])
    rate = found["requests"] / found["seconds"]
    return Load(rate, found["p50_ms"], found["p99_ms"], found["errors"], cpu_s, found["requests"], run_s)


def poisson(server: Running, bodies: Path, rate: float, seconds: float, seed: int) -> Load:
    """Requests that arrive at random, `rate` a second, whatever the server does."""
    command = [sys.executable, "-m", "benchmarks.serving.poisson", str(server.port), server.wire.path, bodies]
    command += [str(len(server.bodies)), str(rate), str(seconds), str(seed), *_headers(server)]
    found, cpu_s, run_s = _timed(server, command)
    found_ms = found["p50_ms"], found["p99_ms"]
    return Load(found["rate"], *found_ms, found["errors"], cpu_s, found["requests"], run_s, found["late_ms"])


def _headers(server: Running) -> list[str]:
    return [f"{name}={value}" for name, value in server.wire.headers.items()]


def _timed(server: Running, command: list[Any]) -> tuple[dict[str, Any], float, float]:
    """What a generator printed, and the CPU seconds of the server and of its runs of the model meanwhile."""
    cpu_s, run_s = server.cpu_seconds(), _run_seconds(server)
    asked = subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(asked.stdout.splitlines()[-1])
    return found, server.cpu_seconds() - cpu_s, _run_seconds(server) - run_s


def _run_seconds(server: Running) -> float:
    return float(clock.read(server.clock)[:, -1].sum()) if server.clock.exists() else 0.0
