"""What the task tests share: modules that load_task imported are forgotten, and sys.path is put back."""

import sys
from collections.abc import Iterator

import pytest

from headway.tasks.images import digits


@pytest.fixture(scope="session", autouse=True)
def _scikit_learn_has_settled() -> None:
    """It sets environment variables when it is first imported; that is not a leak."""
    digits()


@pytest.fixture(autouse=True)
def _imports_are_put_back() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("headway.tasks.files.", "user_")):
            del sys.modules[name]
