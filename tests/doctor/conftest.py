"""A machine and an environment of files, for the doctor to look at."""

from pathlib import Path

import pytest
from tests.doctor.places import Place


@pytest.fixture
def place(tmp_path: Path, home: Path) -> Place:
    """A sound machine without a GPU, and an environment without a package."""
    return Place(tmp_path / "place")
