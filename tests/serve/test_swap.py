"""Swaps under load: a server process, callers that never stop, and versions that come and go under them."""

import http.client
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tests.serve.numbered import SIZE, numbered

from headway.bundles.bundle import Bundle
from headway.registry.registry import Registry

BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, SIZE], "datatype": "FP32", "data": [1.0] * SIZE}]})


class Process:
    """A server in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-P", "-c", "from headway.cli.main import main; main()", "serve", *arguments]
        fixed = ["--http-port", "0", "--grpc-port", "0", "--threads", "1", "--json"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would soon stop the server)
        self.popen = subprocess.Popen([*command, *fixed], stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.popen.stdout is not None
        document = ""
        while not document.endswith("}\n"):
            line = self.popen.stdout.readline()
            if not line:
                pytest.fail(self._told())
            document += line
        said = json.loads(document)
        self.address, self.grpc_address = said["url"].removeprefix("http://"), said["grpc"]

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def load(self, name: str = "numbered", version: int | None = None) -> tuple[int, Any]:
        config = {"parameters": {"config": json.dumps({"version": str(version)})}} if version else {}
        return self.ask("POST", f"/v2/repository/models/{name}/load", json.dumps(config))

    def unload(self, name: str = "numbered") -> tuple[int, Any]:
        return self.ask("POST", f"/v2/repository/models/{name}/unload")

    def index(self) -> list[tuple[str, str, str]]:
        rows = self.ask("POST", "/v2/repository/index")[1]
        return [(row["name"], row.get("version", ""), row["state"]) for row in rows]

    def stop(self) -> list[dict[str, Any]]:
        """Shut it down; its log."""
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.wait(60) == 0, self._told()
        return [json.loads(line) for line in self._told().splitlines()]

    def kill(self) -> None:
        """Leave nothing of it."""
        self.popen.kill()
        self.popen.communicate()
        self._log.close()

    def _told(self) -> str:
        self._log.seek(0)
        return self._log.read()


@contextmanager
def process(*arguments: str) -> Iterator[Process]:
    server = Process(*arguments)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def load_on(
    server: Process, answered: Counter[int], *, allowed: tuple[int, ...] = (200,), callers: int = 6
) -> Iterator[None]:
    """Callers over REST and gRPC for the block; each answer must be one version's, whole. Counts answers by version."""
    over = threading.Event()

    def call() -> None:
        connection = http.client.HTTPConnection(server.address, timeout=60)
        while not over.is_set():
            connection.request("POST", "/v2/models/numbered/infer", BODY)
            answer = connection.getresponse()
            document = json.loads(answer.read())
            assert answer.status in allowed, document
            if answer.status == 200:
                values = [output["data"] for output in document["outputs"]]
                assert values == [[float(document["model_version"])]] * 2, document
                answered[int(document["model_version"])] += 1
        connection.close()

    def call_grpc() -> None:
        value = triton.InferInput("input", [1, SIZE], "FP32")
        value.set_data_from_numpy(np.ones((1, SIZE), np.float32))
        with triton.InferenceServerClient(server.grpc_address) as client:
            while not over.is_set():
                result = client.infer("numbered", [value])
                version = int(result.get_response().model_version)
                assert result.as_numpy("first").tolist() == result.as_numpy("second").tolist() == [[version]]
                answered[version] += 1

    with ThreadPoolExecutor(callers) as pool:
        kinds = [call] * (callers - 1) + [call_grpc if allowed == (200,) else call]
        calls = [pool.submit(kind) for kind in kinds]
        try:
            yield
        finally:
            over.set()
            for one in calls:
                one.result()


def more(answered: Counter[int], version: int, count: int = 20) -> None:
    """Wait until so many more answers came from this version."""
    wanted = answered[version] + count
    until(lambda: answered[version] >= wanted)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def registered(tmp_path: Path, home: Path) -> Registry:
    registry = Registry()
    for number in (1, 2):
        registry.add(numbered(tmp_path, number))
    return registry


def test_no_request_is_lost_and_each_has_one_versions_answer(registered: Registry) -> None:
    answered: Counter[int] = Counter()
    with process("numbered:1") as server:
        with load_on(server, answered):
            more(answered, 1)
            for version in (2, 1, 2):
                ready = threading.Event()
                unready: list[Any] = []

                def watch(ready: threading.Event = ready, unready: list[Any] = unready) -> None:
                    while not ready.is_set():
                        for path in ("/v2/health/ready", "/v2/models/numbered/ready"):
                            status, document = server.ask("GET", path)
                            if status != 200:
                                unready.append(document)

                watcher = threading.Thread(target=watch)
                watcher.start()
                before = answered[3 - version]
                assert server.load(version=version) == (200, {})
                ready.set()
                watcher.join()
                assert unready == [], "it was not available while it was reloaded"
                assert answered[3 - version] > before, "the old version did not answer while the new one was loaded"
                more(answered, version)
        assert ("numbered", "2", "READY") in server.index()
        log = server.stop()
    assert log[-1]["requests"] == {"ok": answered.total()}, "a request that was let in was not answered"
    assert [line["versions"] for line in log if "versions" in line] == [["2"], ["1"], ["2"]]


def test_what_does_not_load_leaves_the_old_one_serving(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "live"

    def put(bundle: Bundle) -> None:
        live.unlink(missing_ok=True)
        live.symlink_to(bundle.path)

    def tampered(change: Callable[[Path], object]) -> Bundle:
        bundle = numbered(tmp_path / f"tampered-{change.__name__}", 2)
        change(bundle.path)
        return bundle

    def model(path: Path) -> None:
        file = next((path / "variants").rglob("*.onnx"))
        data = bytearray(file.read_bytes())
        data[-20] ^= 1
        file.write_bytes(data)

    def extra(path: Path) -> None:
        (path / "extra.txt").write_text("not signed")

    def signature(path: Path) -> None:
        (path / "signature.json").unlink()

    def truncated(path: Path) -> None:
        (path / "manifest.json").write_text((path / "manifest.json").read_text()[:100])

    with monkeypatch.context() as other:
        other.setenv("HEADWAY_HOME", str(tmp_path / "stranger"))
        foreign = numbered(tmp_path / "foreign", 2)
    answered: Counter[int] = Counter()
    put(numbered(tmp_path, 1))
    with process(str(live)) as server:
        with load_on(server, answered):
            for bundle, message in (
                (tampered(model), "is not what was sealed"),
                (tampered(extra), "not listed in the manifest"),
                (tampered(signature), "not signed"),
                (numbered(tmp_path, 2, wrong=True), "differs from its golden output by 1"),
                (foreign, "not trusted here"),
                (numbered(tmp_path, 2, name="other"), "is called 'other'"),
                (tampered(truncated), "not valid JSON"),
            ):
                put(bundle)
                status, document = server.load()
                assert status == 400
                assert message in document["error"]
                assert server.index() == [("numbered", "1", "READY"), ("numbered", "", "UNAVAILABLE")]
                assert message in server.ask("POST", "/v2/repository/index")[1][1]["reason"]
                more(answered, 1)
            assert set(answered) == {1}
            put(numbered(tmp_path, 2))
            assert server.load() == (200, {})
            more(answered, 2)
        assert server.index() == [("numbered", "2", "READY")]
        log = server.stop()
    assert log[-1]["requests"] == {"ok": answered.total()}


def test_loads_and_unloads_that_come_all_at_once(tmp_path: Path, registered: Registry) -> None:
    """Of one model and of several, while callers go on; every call ends in a known way, and the server as one says."""
    registered.add(numbered(tmp_path, 1, name="other"))
    answered: Counter[int] = Counter()
    ended: Counter[tuple[str, int]] = Counter()

    def hammer(server: Process, seed: int) -> None:
        for turn in range(3):
            name = ("numbered", "numbered", "other")[(seed + turn) % 3]
            if (seed + turn) % 2:
                status, document = server.load(name, version=1 if name == "other" else 1 + turn % 2)
                ended["load", status] += 1
            else:
                status, document = server.unload(name)
                ended["unload", status] += 1
            assert status == 200, document

    with process("numbered:1", "other:1") as server:
        with load_on(server, answered, allowed=(200, 404, 503), callers=2), ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(hammer, server, seed) for seed in range(4)]:
                one.result()
        assert set(ended) == {("load", 200), ("unload", 200)}
        assert {row[2] for row in server.index()} <= {"READY", "UNAVAILABLE", "UNLOADING"}
        assert server.load(version=2) == (200, {})
        assert server.load("other") == (200, {})
        assert sorted(row for row in server.index() if row[2] == "READY") == [
            ("numbered", "2", "READY"), ("other", "1", "READY"),
        ]  # fmt: skip
        server.stop()


def test_it_shuts_down_while_a_model_is_being_loaded(registered: Registry) -> None:
    answered: Counter[int] = Counter()
    with process("numbered:1", "--choose-seconds", "60") as server:  # one variant: nothing is measured at the start
        with ThreadPoolExecutor(3) as pool:
            stopping = threading.Event()

            def load(version: int) -> tuple[int, Any]:
                try:
                    return server.load(version=version)
                except (ConnectionError, http.client.HTTPException):
                    assert stopping.is_set()
                    return 0, None

            with load_on(server, answered):
                loads = [pool.submit(load, version) for version in (2, 1, 2)]
                until(lambda: ("numbered", "", "LOADING") in server.index())
                until(lambda: bool(psutil.Process(server.popen.pid).children()))
                (child,) = psutil.Process(server.popen.pid).children()
                more(answered, 1)
            stopping.set()
            log = server.stop()
            assert {one.result()[0] for one in loads} <= {503, 0}
        assert not child.is_running()
    assert log[-1]["requests"] == {"ok": answered.total()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_is_flat_over_50_swaps(tmp_path: Path, home: Path) -> None:
    """The model has 2 MB of weights: if what 30 swaps replace were kept, that would be 60 MB."""
    for number in (1, 2):
        Registry().add(numbered(tmp_path, number, width=125_000))
    answered: Counter[int] = Counter()
    with process("numbered:1", "--choose-seconds", "0") as server, load_on(server, answered, callers=2):
        running = psutil.Process(server.popen.pid)
        resident, handles = [], []
        for swap in range(50):
            assert server.load(version=2 - swap % 2) == (200, {})
            resident.append(running.memory_info().rss / 1e6)
            handles.append((running.num_fds(), running.num_threads()))
        late, early = np.median(resident[-10:]), np.median(resident[10:20])
        assert late - early < 20, resident
        assert np.ptp([fds for fds, _ in handles[10:]]) < 20, handles
        assert np.ptp([threads for _, threads in handles[10:]]) < 10, handles
