"""The soak test in its short form: the same server, callers and verdict as `make soak`, for seconds."""

from pathlib import Path

import pytest
from benchmarks.serving.soak import report, soak


@pytest.mark.slow
@pytest.mark.alone
def test_every_request_is_answered_once_under_callers_that_crash_cancel_and_lie(tmp_path: Path, home: Path) -> None:
    found = soak(tmp_path, seconds=15, growth_mb=100)
    assert found.mistakes == [], report(found)
    assert found.calm["right"] == found.counted["calm"]["ok"] > 0
    assert found.beside["right"] > 0
    assert found.kills > 1
