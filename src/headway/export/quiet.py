"""Silence for libraries that log, print and warn on their own account."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what is logged, printed and warned of in the block from the user: whatever matters comes as an error.

    Environment variables that the block adds are taken out again; they would pass to every child process.
    """
    level, names, nowhere = logging.root.manager.disable, set(os.environ), io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        for name in set(os.environ) - names:
            del os.environ[name]
