"""What the C library keeps of freed memory goes back to the system."""

import ctypes
import subprocess
import sys

import pytest

from headway.core import heap

CODE = """
import psutil
from headway.core import heap

blocks = [bytearray(2_000) for _ in range(50_000)]
kept = blocks[::1000]  # spread over the heap, so that it cannot shrink from its end
del blocks
before = psutil.Process().memory_info().rss
heap.trim()
print((before - psutil.Process().memory_info().rss) / 1e6)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_free_pages_in_the_middle_of_the_heap_go_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 40  # of the 100 MB


def test_where_the_c_library_has_no_such_function_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    heap._malloc_trim.cache_clear()
    try:
        heap.trim()
    finally:
        monkeypatch.undo()
        heap._malloc_trim.cache_clear()
