"""Every test is checked for what it leaves behind: threads, child processes, sockets, environment variables."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

# Pools that libraries keep for the life of the process.
_LASTING = ("pydevd", "tqdm_monitor", "asyncio_", "ThreadPoolExecutor", "pytest_timeout", "QueueFeeder", "OpenBLAS")


def _sockets() -> set[tuple[int, str]]:
    process = psutil.Process()
    ask = process.net_connections if hasattr(process, "net_connections") else process.connections  # psutil 6 renamed it
    found = ask(kind="inet")
    return {(c.fd, f"{c.laddr}") for c in found if c.status == psutil.CONN_LISTEN}


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.is_alive() and not t.name.startswith(_LASTING)}


def _children() -> set[int]:
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(child.cmdline())
    }


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    before = _threads(), _children(), _sockets(), dict(os.environ)
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while True:
        left = _threads() - before[0], _children() - before[1], _sockets() - before[2]
        if not any(left) or time.monotonic() > deadline:
            break
        threading.Event().wait(0.02)
    assert not left[0], f"threads left running: {[t.name for t in left[0]]}"
    assert not left[1], f"child processes left running: {left[1]}"
    assert not left[2], f"sockets left listening: {left[2]}"
    after = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    assert after == {k: v for k, v in before[3].items() if k != "PYTEST_CURRENT_TEST"}, "the environment was changed"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `HEADWAY_HOME`."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HEADWAY_HOME", str(folder))
    return folder
