"""System shared memory: tensors pass through a memory object that a client on this machine made, and not over the wire.

Source: Triton `docs/protocol/extension_shared_memory.md`. Off unless the settings say otherwise.

Bytes are copied with pread and pwrite, and the object is never mapped: a client that shrinks an object makes the next
touch of a mapping end the whole process with SIGBUS, but a read from a file merely ends early. A copy also means that
a client may change or unregister a region at any time, and no running request sees anything of it.
"""

import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from headway.core.errors import RequestError
from headway.core.tensors import Array, TensorSpec
from headway.serve.binary_tensors import to_blob
from headway.serve.errors import TooLargeError, UnsupportedError
from headway.serve.fields import Slice, is_count

_FOLDER = "/dev/shm"  # noqa: S108  (where Linux has POSIX shared memory)
_MOST_NAME = 200  # characters


class Placed(Protocol):
    """What is used of an `OutputRequest`."""

    @property
    def name(self) -> str:
        """Of the output."""

    @property
    def region(self) -> Slice | None:
        """Where it is to go."""


@dataclass(frozen=True, slots=True)
class Region:
    """A registered part of a memory object, in bytes; as `status` tells it."""

    name: str
    key: str
    offset: int
    byte_size: int


class Regions:
    """The regions that clients registered. Safe to use from several threads.

    Args:
        prefix: that keys must begin with, so that nobody names the memory of another program; None switches all off.
        most: regions at a time.
        most_bytes: of one tensor.
    """

    def __init__(self, prefix: str | None, *, most: int = 64, most_bytes: int = 64 << 20) -> None:
        self._prefix, self._most, self._most_bytes = prefix, most, most_bytes
        self._regions: dict[str, tuple[Region, int]] = {}  # and the descriptor of its object
        self._lock = threading.Lock()  # a descriptor that one thread closes may be another file's in the next moment

    @property
    def on(self) -> bool:
        """Whether they can be used."""
        return self._prefix is not None

    def register(self, name: str, key: object, offset: object, byte_size: object) -> None:
        """Take a region in.

        Raises:
            RequestError: it has a name already taken, a key that is not for clients, or lies past its object's end.
            UnsupportedError: shared memory is off.
        """
        self._check_on()
        if not isinstance(key, str) or not is_count(offset) or not is_count(byte_size) or not byte_size:
            raise RequestError("a region needs a key, an offset from 0 and a byte_size from 1")
        if len(name) > _MOST_NAME:
            raise RequestError(f"the name of a region has at most {_MOST_NAME} characters")
        with self._lock:
            if name in self._regions:
                raise RequestError(f"region {name!r} is registered already", remedy="Unregister it first.")
            if len(self._regions) >= self._most:
                raise RequestError(f"{self._most} regions are registered, and no more are taken")
            descriptor = self._open(key)
            if offset + byte_size > os.fstat(descriptor).st_size:
                os.close(descriptor)
                raise RequestError("the region reaches past the end of its memory object", where=f"region {name!r}")
            self._regions[name] = Region(name, key, offset, byte_size), descriptor

    def unregister(self, name: str = "") -> None:
        """Forget a region, or every one. Requests that have read it go on; a name that is not known is passed over."""
        self._check_on()
        with self._lock:
            for gone in [name] if name else list(self._regions):
                if gone in self._regions:
                    os.close(self._regions.pop(gone)[1])

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """One region, or all of them. Raises `RequestError` and `UnsupportedError`."""
        self._check_on()
        if name:
            return [asdict(self._find(name)[0])]
        return [asdict(region) for region, _ in list(self._regions.values())]

    def check(self, part: Slice) -> None:
        """Raise `RequestError` or `UnsupportedError` where there is no such part of a region."""
        self._check_on()
        region, _ = self._find(part.region)
        if part.offset + part.size > region.byte_size:
            raise RequestError(
                f"bytes {part.offset} to {part.offset + part.size} of a region of {region.byte_size}"[:300],
                where=f"region {part.region!r}",
            )
        if part.size > self._most_bytes:
            raise TooLargeError(f"a tensor of {part.size} bytes; at most {self._most_bytes} are read")

    def read(self, part: Slice) -> bytes:
        """A copy of these bytes. Raises what `check` raises, and `RequestError` where the object has become shorter."""
        with self._lock:
            self.check(part)
            region, descriptor = self._regions[part.region]
            content = os.pread(descriptor, part.size, region.offset + part.offset)
        if len(content) < part.size:
            raise RequestError("its memory object has become shorter", where=f"region {part.region!r}")
        return content

    def place(self, asked: Sequence[Placed], outputs: Sequence[tuple[TensorSpec, Array, bool]]) -> dict[str, Slice]:
        """Write the outputs that were asked for in regions; by name, where each lies now.

        Raises:
            RequestError: it does not fit, or its region has gone since.
        """
        wanted = {one.name: one.region for one in asked if one.region is not None}
        return {spec.name: self._write(wanted[spec.name], to_blob(spec, value)) for spec, value, _ in outputs
                if spec.name in wanted}  # fmt: skip

    def close(self) -> None:
        """Forget all of them."""
        if self.on:
            self.unregister()

    def _write(self, part: Slice, content: bytes) -> Slice:
        where = f"region {part.region!r}"
        if len(content) > part.size:
            raise RequestError(f"the output has {len(content)} bytes, and {part.size} were given to it", where=where)
        with self._lock:
            self.check(part)
            region, descriptor = self._regions[part.region]
            start = region.offset + part.offset
            if os.fstat(descriptor).st_size < start + len(content):  # writing would make it longer again
                raise RequestError("its memory object has become shorter", where=where)
            try:
                written = os.pwrite(descriptor, content, start)
            except OSError as error:
                raise RequestError(f"cannot be written: {error.strerror}", where=where) from None
        if written < len(content):
            raise RequestError("there is no memory left for it", where=where)
        return replace(part, size=len(content))

    def _open(self, key: str) -> int:
        """The descriptor of the object under this key. What is wrong with another program's is not told."""
        name = key.removeprefix("/")
        assert self._prefix is not None  # noqa: S101
        if not name.startswith(self._prefix) or "/" in name or "\0" in name or name in ("", ".", ".."):
            raise RequestError(
                f"keys must begin with {self._prefix!r} and hold no '/'" if self._prefix else "a key holds no '/'",
                remedy="Name the memory object so, or change shared_memory_prefix.",
            )
        try:
            # Not through a link, and without waiting for the other end of a pipe.
            descriptor = os.open(f"{_FOLDER}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            raise RequestError("no memory object can be opened under this key") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise RequestError("no memory object can be opened under this key")
        return descriptor

    def _find(self, name: str) -> tuple[Region, int]:
        found = self._regions.get(name)
        if found is None:
            raise RequestError(f"no shared memory region is called {name[:100]!r}")
        return found

    def _check_on(self) -> None:
        if not self.on:
            raise UnsupportedError("shared memory is off", remedy="Start the server with --shared-memory.")


OFF = Regions(None)
