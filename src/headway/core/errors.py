"""Every error Headway raises on purpose.

HeadwayError
├── UsageError                  exit 2: what the user gave is wrong
│   ├── ConfigError             a recipe or setting, with file and line
│   ├── TaskError               the user's task raised or returned something unfit
│   ├── DataError               empty part, NaN, missing data files
│   ├── WeightsError            weights that do not fit the model
│   ├── FormatError             a file is not the format it should be, or an unsafe one
│   ├── BundleError             a bundle is incomplete or wrong
│   │   └── TamperedError       a bundle's bytes are not what was sealed
│   ├── RequestError            an inference request is wrong
│   ├── BusyError               another process holds what this one needs
│   └── StorageError            no space, read-only, or not writable
├── RefusedError                exit 3: a gate said no
├── MissingDependencyError      exit 4: the environment lacks something
└── WorkerError                 exit 4: a process that worked along was lost

Anything else that escapes is a bug: traceback, exit 1.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class HeadwayError(Exception):
    """An error with a place and a remedy.

    Args:
        message: what is wrong, in one sentence.
        where: file, `file:line`, model or tensor name that it concerns.
        remedy: what the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.remedy}" if self.remedy else text


class UsageError(HeadwayError):
    """What the user gave is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe or setting is wrong; `where` is `file:line`."""


class TaskError(UsageError):
    """The user's task raised or returned something unfit."""


class DataError(UsageError):
    """Data is missing, empty or not finite."""


class WeightsError(UsageError):
    """Weights do not fit the model they were given for."""


class FormatError(UsageError):
    """A file is not the format it should be, or one that is not safe to load."""


class BundleError(UsageError):
    """A bundle is incomplete or wrong."""


class TamperedError(BundleError):
    """A bundle's bytes are not what was sealed."""


class RequestError(UsageError):
    """An inference request is wrong; the caller can mend it."""


class BusyError(UsageError):
    """Another process holds what this one needs."""


class StorageError(UsageError):
    """No space left, read-only, or not writable."""


class RefusedError(HeadwayError):
    """A gate said no; nothing was shipped."""

    exit_code = 3


class MissingDependencyError(HeadwayError):
    """The environment lacks something that can be installed."""

    exit_code = 4


class WorkerError(HeadwayError):
    """A process that worked along was lost: killed, out of memory, or its machine is gone."""

    exit_code = 4


_STORAGE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EROFS: "read-only file system",
    errno.ENOTDIR: "part of the path is not a folder",
    errno.EEXIST: "something else stands there",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its symbolic links go round in a circle",
    errno.EIO: "the storage fails (input/output error)",
}


@contextmanager
def storage_errors(*, creating: bool = False) -> Iterator[None]:
    """Turn the operating system's 'cannot write' errors into `StorageError`.

    Args:
        creating: the block only makes files or folders, so that 'no such file' means that one cannot be made there.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, PermissionError):
            reason = "permission denied"
        elif error.errno in _STORAGE:
            reason = _STORAGE[error.errno]
        elif creating and isinstance(error, FileNotFoundError):
            reason = "cannot be made there"
        else:
            raise
        where = str(error.filename) if error.filename else None
        raise StorageError(
            reason, where=where, remedy="Free space or choose another folder; what was already saved is intact."
        ) from error
