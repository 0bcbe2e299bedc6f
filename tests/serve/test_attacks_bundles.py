"""Attacks through load calls and shared memory: archives that are evil, addresses and paths, keys of others."""

import base64
import json
import os
import pickle
import socket
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.numbered import numbered
from tests.serve.wire import INFER, TENSOR, ask, post, refused, right, serving

from headway.bundles.archive import archive
from headway.bundles.bundle import Bundle
from headway.serve.server import Server

Seal = Callable[..., Bundle]
LOAD = "/v2/repository/models/numbered/load"
MARK = "evil.txt"


class Evil:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


@pytest.fixture
def server(tmp_path: Path, home: Path) -> Iterator[Server]:
    with serving(numbered(tmp_path / "b", 1), choose_seconds=0, threads=1) as server:
        yield server


def added(
    packed: bytes, path: Path, name: str, content: bytes, *, how: int = zipfile.ZIP_STORED, mode: int = 0
) -> bytes:
    """An archive with one more entry."""
    path.write_bytes(packed)
    entry = zipfile.ZipInfo(name)
    entry.compress_type, entry.external_attr = how, mode << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(entry, content)
    return path.read_bytes()


def evil(packed: bytes, path: Path) -> dict[str, bytes]:
    link = stat.S_IFLNK | 0o777
    return {
        "slip": added(packed, path, f"../../{MARK}", b"x"),
        "absolute slip": added(packed, path, f"/tmp/{MARK}", b"x"),  # noqa: S108
        "link then write": added(added(packed, path, "out", b"/tmp", mode=link), path, f"out/{MARK}", b"x"),
        "bomb": added(packed, path, "zeros", bytes(50_000_000), how=zipfile.ZIP_DEFLATED),
        "extra file": added(packed, path, "extra.py", b"import os"),
        "pickle": pickle.dumps(Evil()),
        "nothing": b"",
        "an ONNX file": b"\x08\x09" + bytes(100),
    }


def test_an_evil_archive_that_comes_with_a_load_call(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packed = archive(numbered(tmp_path / "b", 2), tmp_path / "2.hw").read_bytes()
    attacks = evil(packed, tmp_path / "evil.hw")
    before = {path for path in tmp_path.rglob("*") if "home" not in path.parts}
    for what, content in attacks.items():
        document = {"parameters": {"file:2/model.hw": base64.b64encode(content).decode()}}
        answer = ask(server, "POST", LOAD, json.dumps(document).encode())
        refused(answer, 400)
        assert "Traceback" not in answer[2].decode(), what
        sent = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0] * 4}
        status, found = post(server, "/v2/models/numbered/infer", {"inputs": [sent]})
        assert (status, found["model_version"]) == (200, "1"), what
    assert {path for path in tmp_path.rglob("*") if "home" not in path.parts} == before
    assert not list(tmp_path.rglob(MARK))
    assert not (Path("/tmp") / MARK).exists()  # noqa: S108


def test_a_load_call_reaches_no_address_and_no_path(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        named = (f"http://{address}/m.hw", f"//{address}/m", f"s3://{address}/m", "file:///etc/passwd",
                 str(tmp_path / "b"), "http://169.254.169.254/latest", "/etc/passwd", "../b/numbered-1")  # fmt: skip
        for name in named:
            quoted = name.replace("/", "%2f").replace(":", "%3a")
            refused(ask(server, "POST", f"/v2/repository/models/{quoted}/load"), 404)
            for key in ("config", "url", "model_uri", "path", "file:1/url", "version", "alias"):
                for value in (
                    name,
                    json.dumps({"version": name}),
                    json.dumps({"alias": name}),
                    json.dumps({"source": name}),
                ):
                    refused(ask(server, "POST", LOAD, json.dumps({"parameters": {key: value}}).encode()), 400)
        with pytest.raises(TimeoutError):
            listener.accept()


# Shared memory


@pytest.fixture
def memory() -> Iterator[Path]:
    """A memory object of 64 bytes, whose key clients may name."""
    path = Path(f"/dev/shm/headway-test-{os.getpid()}-{threading.get_ident()}")  # noqa: S108
    path.write_bytes(np.arange(16, dtype="<f4").tobytes())
    yield path
    path.unlink(missing_ok=True)


def test_hostile_regions_of_shared_memory(sealed: Seal, memory: Path, tmp_path: Path) -> None:
    def register(key: Any, offset: Any = 0, size: Any = 64, name: str = "r") -> tuple[int, Any, bytes]:
        body = {"key": key, "offset": offset, "byte_size": size}
        return ask(server, "POST", f"/v2/systemsharedmemory/region/{name}/register", json.dumps(body).encode())

    def infer(size: Any = 16, offset: Any = 0, **output: Any) -> tuple[int, Any, bytes]:
        part = {"shared_memory_region": "r", "shared_memory_byte_size": size, "shared_memory_offset": offset}
        sent: dict[str, Any] = {
            "inputs": [{k: TENSOR[k] for k in ("name", "shape", "datatype")} | {"parameters": part}]
        }
        if output:
            sent["outputs"] = [{"name": "logits", "parameters": {**part, **output}}]
        return ask(server, "POST", INFER, json.dumps(sent).encode())

    other = Path(f"/dev/shm/other-{os.getpid()}")  # noqa: S108
    link = memory.with_name(f"{memory.name}-link")
    pipe = memory.with_name(f"{memory.name}-pipe")
    try:
        other.write_bytes(b"secret of another program")
        link.symlink_to(other)
        os.mkfifo(pipe)
        with serving(sealed("linear"), shared_memory=True, shared_memory_regions=2, choose_seconds=0) as server:
            told = set()
            for key in (other.name, f"/{other.name}", "triton_python_backend_shm_region_1", "/etc/passwd", "..", "",
                        "headway/../x", f"headway/../../..{other}", "headway\0", "headway-none", link.name, pipe.name,
                        "headway" * 1000, None, 7, ["headway"]):  # fmt: skip
                answer = register(key)
                refused(answer, 400)
                told.add(answer[2])
            assert b"secret" not in b"".join(told)
            assert not any(other.name.encode() in one for one in told), "an error names another program's key"
            for offset, size in ((0, 65), (64, 1), (1 << 62, 1 << 62), ((1 << 63) - 1, 1), (1 << 63, 1), (-1, 64),
                                 (0, 0), (0, -1), (0, 1 << 64), ("0", 64), (0, 64.0), (True, 64)):  # fmt: skip
                refused(register(memory.name, offset, size), 400)
            assert register(memory.name)[0] == 200
            refused(register(memory.name), 400, "registered already")
            assert register(memory.name, name="second")[0] == 200
            refused(register(memory.name, name="third"), 400, "no more are taken")
            assert infer()[0] == 200
            for size, offset in ((15, 0), (16, 49), (16, (1 << 63) - 1), (16, -1), (16, 1 << 63), ("16", 0), (-16, 0)):
                refused(infer(size, offset), 400)
            refused(infer(shared_memory_byte_size=11), 400, "11 were given to it")
            refused(infer(shared_memory_offset=60), 400)
            assert infer(shared_memory_byte_size=12, shared_memory_offset=52)[0] == 200
            os.truncate(memory, 8)  # a mapping of it would end the process by SIGBUS
            refused(infer(), 400, "shorter")
            refused(infer(shared_memory_byte_size=12), 400, "shorter")
            assert memory.stat().st_size == 8
            answers = unregistered_in_use(server, infer)
            assert set(answers) <= {400}
            assert right(server)
    finally:
        for path in (other, link, pipe):
            path.unlink(missing_ok=True)


def unregistered_in_use(server: Server, infer: Callable[[], tuple[int, Any, bytes]]) -> list[int]:
    """Requests that read a region while another caller unregisters it."""
    answers: list[int] = []
    callers = [threading.Thread(target=lambda: answers.extend(infer()[0] for _ in range(20))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for _ in range(5):
        assert ask(server, "POST", "/v2/systemsharedmemory/unregister")[0] == 200
    for caller in callers:
        caller.join()
    return answers
