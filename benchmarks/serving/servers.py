"""The servers: each in an environment of its own, started the same way, held to one core, checked before timing."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from benchmarks.serving import wires
from benchmarks.serving.models import CACHE, ROOT, Model, headway_home
from benchmarks.serving.wires import Wire

PEERS = Path(__file__).parent / "peers"
SERVER_CORE, LOAD_CORE = 1, 0
START_S = 120.0


class Peer(NamedTuple):
    """A server that can be measured: `peers/<name>/server.py`, called with a model and a port."""

    title: str
    wire: Callable[[Model], Wire]
    about: str


SERVERS = {
    "headway": Peer("Headway", wires.binary, "`headway pack`, `headway serve`, cache off; V2 binary"),
    "bare": Peer(
        "bare", wires.binary, "granian's RSGI, greedy batching, a run thread, no checks: the ceiling; V2 binary"
    ),
    "fastapi": Peer("FastAPI", wires.raw, "uvloop, httptools, greedy batching, a run thread; raw bytes both ways"),
    "triton": Peer(
        "Triton", wires.binary, "of nvidia-pytriton, ONNX Runtime in its Python backend, dynamic batching; V2 binary"
    ),
    "litserve": Peer("LitServe", wires.raw, "batches of 32 within 10 ms, its fast queue; raw bytes both ways"),
    "bentoml": Peer("BentoML", wires.array, "adaptive batching to 32; JSON array, all that its batching takes"),
    "mlserver": Peer("MLServer", wires.text, "custom runtime, adaptive batching to 32; V2 JSON with base64 data"),
    "ray": Peer("Ray Serve", wires.raw, "one replica, `@serve.batch` to 32; raw bytes both ways"),
}


class BrokenPeerError(Exception):
    """A server does not start, or answers wrong; it is left out, and the results say why."""


class Running(NamedTuple):
    """A server that answers right.

    Attributes:
        process: its first process.
        port: on 127.0.0.1.
        wire: how it is asked.
        bodies: requests, one row each, all different.
        clock: where Headway keeps the CPU seconds of its stages, the run's last (`clock.py`).
    """

    process: psutil.Process
    port: int
    wire: Wire
    bodies: list[bytes]
    clock: Path

    def cpu_seconds(self, thread: str = "*") -> float:
        """CPU time that one thread of its first process has had, or all of them, to the nanosecond."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob(f"{thread}/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def pause(self) -> None:
        """Take it off the processor while others are measured."""
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                one.suspend()

    def resume(self) -> None:
        """Let it go on."""
        for one in reversed(self.processes()):
            with suppress(psutil.NoSuchProcess):
                one.resume()

    def processes(self) -> list[psutil.Process]:
        """All of them, the first one first; none once that has ended."""
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@contextmanager
def serving(name: str, model: Model, folder: Path, *, every_stage: bool = False) -> Iterator[Running]:
    """Start a server on its core and wait until it answers right. Its log is `folder`/`name`.log.

    Args:
        name: of the server.
        model: is served.
        folder: for what it writes.
        every_stage: whether Headway measures each stage of a request, and not the model's run alone.

    Raises:
        BrokenPeerError: with what went wrong.
    """
    python = environment(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = folder / f"{name}-{model.name}"
    scratch.mkdir()
    paths = [str(PEERS), *([str(ROOT / "src"), str(ROOT)] if name == "headway" else [])]
    told = {
        **os.environ,
        **headway_home(),
        "PYTHONPATH": ":".join(paths),
        "TMPDIR": str(scratch),
        "CLOCK": str(scratch / "clock"),
    }
    told |= {"STAGES": "1"} if every_stage else {}
    command = ["taskset", "-c", str(SERVER_CORE), python, "server.py", model.served, str(port)]
    with (folder / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(
            command,
            cwd=PEERS / name,
            env=told,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    wire = SERVERS[name].wire(model)
    server = Running(
        psutil.Process(started.pid), port, wire, [wire.encode(row[None]) for row in model.rows()], scratch / "clock"
    )
    try:
        _wait(started, server)
        check(server, model)
        yield server
    finally:
        _stop(started, server)


def environment(name: str, peers: Path = PEERS) -> Path:
    """The Python that runs a peer: Headway's is this one; another's is made on first use, from its requirements."""
    wanted = peers / name / "requirements.txt"
    if not wanted.exists():
        return Path(sys.executable)
    folder = CACHE / "peers" / name
    installed = folder / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        print(f"making the environment of {name} in {folder}", file=sys.stderr)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, stdout=sys.stderr)
            pip = [folder / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet", "-r", wanted]
            subprocess.run(pip, check=True, stdout=sys.stderr)
        except subprocess.CalledProcessError as error:
            raise BrokenPeerError(f"its environment cannot be made: exit code {error.returncode}") from None
        shutil.copy(wanted, installed)
    return folder / "bin" / "python"


def ask(server: Running, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers (in lower case) and body of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("POST", server.wire.path, body, server.wire.headers)
        response = connection.getresponse()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def check(server: Running, model: Model) -> None:
    """Compare every answer with ONNX Runtime's own, one by one and then many at a time. Raises `BrokenPeerError`."""
    expected = model.session().run(None, {model.input: model.rows()})[0]
    for callers in (1, 16):
        with ThreadPoolExecutor(callers) as pool:
            answers = list(pool.map(lambda body: ask(server, body), server.bodies))
        for number, (status, told, body) in enumerate(answers):
            if status != 200:
                raise BrokenPeerError(f"answers {status}: {body[:200]!r}")
            found = server.wire.decode(told, body)
            if found.shape != expected[number].shape or not np.allclose(found, expected[number], 1e-3, 1e-4):
                raise BrokenPeerError(f"with {callers} callers, answer {number} is wrong: {found[:5]}")


def _wait(started: "subprocess.Popen[bytes]", server: Running) -> None:
    end = time.monotonic() + START_S
    last = "nothing"
    while time.monotonic() < end:
        if started.poll() is not None:
            raise BrokenPeerError(f"ended at its start with exit code {started.returncode}")
        try:
            status, _, body = ask(server, server.bodies[0])
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == 200:
                return
            last = f"{status} {body[:200]!r}"
        time.sleep(0.2)
    raise BrokenPeerError(f"did not answer within {START_S:.0f} s; the last try: {last}")


def _stop(started: "subprocess.Popen[bytes]", server: Running) -> None:
    """Ask it to end, and after twenty seconds end it."""
    server.resume()
    left = server.processes() if started.poll() is None else []
    if left:
        started.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(left, timeout=20)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    started.wait()
