"""The messages of `proto/`, as classes that live in a descriptor pool of our own.

protobuf keeps one pool for a process, and a name can be in it once: with our messages there, a user who imports
`tritonclient.grpc` or `kserve` beside us would get `duplicate symbol 'inference.ServerLiveRequest'`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from headway.core.errors import RequestError


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
    """The message of this class in these bytes. Raises `RequestError`."""
    try:
        return kind.FromString(content)
    except DecodeError:
        raise RequestError(f"the request is no {kind.DESCRIPTOR.full_name}") from None


def filled(name: str, document: Mapping[str, Any]) -> Any:
    """The message `inference.{name}` whose JSON form this document is."""
    return json_format.ParseDict(document, message(f"inference.{name}")())
