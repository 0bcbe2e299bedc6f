"""The folder of private copies."""

import os
import time
from pathlib import Path

import pytest

from headway.bundles import cache
from headway.bundles.cache import cached


def fill(folder: Path) -> None:
    (folder / "file").write_text("copy")


def sound(folder: Path) -> bool:
    return (folder / "file").is_file()


def test_copies_that_nobody_asks_for_do_not_pile_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_COPIES", 3)
    for number in range(6):
        os.utime(cached(str(number), fill, sound), (0, time.time() - 7200 + number))
    cached("0", fill, sound)  # it was removed, and is now the newest
    cached("4", fill, sound)
    cached("new", fill, sound)
    left = {path.name for path in cache.cache_folder().iterdir() if path.is_dir()}
    assert left == {"0", "4", "new"}


def test_a_copy_that_was_asked_for_lately_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_COPIES", 1)
    for number in range(5):
        cached(str(number), fill, sound)
    assert len([path for path in cache.cache_folder().iterdir() if path.is_dir()]) == 5
