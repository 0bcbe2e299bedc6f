"""The memory that the C library keeps after a model is freed."""

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS; and Windows has no library of that name
        return None


def trim() -> None:
    """Give free pages of every heap back to the system, where the C library can (glibc's malloc_trim(3)).

    glibc has a heap for every few threads, and each version is loaded and run by threads of its own. What one version
    leaves free in one heap, the next may take from another: without this, 50 swaps end 30 MB above where they began.
    Milliseconds; the interpreter is free meanwhile.
    """
    if (malloc_trim := _malloc_trim()) is not None:
        malloc_trim(0)
