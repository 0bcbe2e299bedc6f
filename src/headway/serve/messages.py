"""The messages of `proto/`, as classes that live in a descriptor pool of our own.

protobuf keeps one pool for a process, and a name can be in it once: with our messages there, a user who imports
`tritonclient.grpc` or `kserve` beside us would get `duplicate symbol 'inference.ServerLiveRequest'`.

A stranger's message is measured before it is parsed: 20 MB of empty tensors, two bytes each, become 1 GB of objects and
hold every other request up for seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from headway.core.errors import RequestError
from headway.serve.errors import TooLargeError

_LONG = 1 << 16  # bytes from which a message is measured
_MOST_PARTS = 1 << 16  # fields, at all depths; a request of 1024 tensors has some 20,000
_MOST_PACKED = 16 << 20  # bytes of numbers in typed contents; one byte can become eight


@dataclass(frozen=True, slots=True)
class Method:
    """One call of a service: its name, and the classes of what it takes and gives."""

    name: str
    request: Any
    response: Any


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    stored = (files("headway.serve") / "proto" / "descriptors.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(stored).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@cache
def message(name: str) -> Any:
    """The class of a message, such as `inference.ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def methods(service: str) -> tuple[Method, ...]:
    """Every call of a service, such as `inference.GRPCInferenceService`."""
    return tuple(
        Method(call.name, message(call.input_type.full_name), message(call.output_type.full_name))
        for call in _pool().FindServiceByName(service).methods
    )


def parsed(kind: Any, content: bytes) -> Any:
    """The message of this class in these bytes.

    Raises:
        TooLargeError: it has more parts, or more typed contents, than are read.
        RequestError: it is no such message.
    """
    try:
        if len(content) > _LONG:
            _Measure().take(content, 0, len(content), kind.DESCRIPTOR)
        return kind.FromString(content)
    except (DecodeError, IndexError):
        raise RequestError(f"the request is no {kind.DESCRIPTOR.full_name}") from None


class _Measure:
    """Walks over a message in the wire format, and raises `TooLargeError` where it is too large.

    Source: protobuf.dev, "Encoding". Raw tensors are one field each, so that walking over them costs nothing.
    """

    def __init__(self) -> None:
        self._parts = self._packed = 0

    def take(self, content: bytes, at: int, end: int, kind: Any) -> None:
        """Add what lies in `content[at:end]`, a message of this kind. Raises IndexError where it is cut off."""
        while at < end:
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise TooLargeError(
                    f"the message has more than {_MOST_PARTS} parts", remedy="Send tensors as raw_input_contents."
                )
            tag, at = _varint(content, at)
            if tag & 7 == _BYTES:
                size, at = _varint(content, at)
                field = kind.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    self.take(content, at, at + size, field.message_type)
                elif field is not None and field.is_packed:
                    self._add_packed(size)
                at += size
            elif tag & 7 == _VARINT:
                _, at = _varint(content, at)
            elif tag & 7 in _FIXED:
                at += _FIXED[tag & 7]
            else:
                raise DecodeError  # a group, which no message of ours has

    def _add_packed(self, size: int) -> None:
        self._packed += size
        if self._packed > _MOST_PACKED:
            raise TooLargeError(
                f"more than {_MOST_PACKED} bytes of typed contents", remedy="Send tensors as raw_input_contents."
            )


_VARINT, _BYTES = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of at most ten bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise DecodeError


def filled(name: str, document: Mapping[str, Any]) -> Any:
    """The message `inference.{name}` whose JSON form this document is."""
    return json_format.ParseDict(document, message(f"inference.{name}")())
