"""Protocol Buffers' wire format, read in place: enough to look into an ONNX file, or write a small one, without onnx.

https://protobuf.dev/programming-guides/encoding/: a message is a row of fields, each a tag (number and wire type)
and a value; what is long (text, bytes, messages, packed numbers) says its length first, so that it can be skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass

Buffer = bytes | memoryview
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: `number` as its schema has it, and either a number or a span of bytes."""

    number: int
    value: int = 0
    span: Buffer | None = None

    @property
    def message(self) -> Buffer:
        """The bytes of text or of a message within. Raises `ValueError` where the field is a number."""
        if self.span is None:
            raise ValueError(f"field {self.number} is a number")
        return self.span

    @property
    def text(self) -> str:
        """The value as text; bytes that are not UTF-8 are replaced."""
        return bytes(self.message).decode("utf-8", "replace")

    def numbers(self) -> Iterator[int]:
        """The values of a repeated whole number, packed or not."""
        if self.span is None:
            yield self.value
            return
        at = 0
        while at < len(self.span):
            value, at = _varint(self.span, at)
            yield value


def fields(message: Buffer) -> Iterator[Field]:
    """The fields of a message, in their order.

    Raises:
        ValueError: the bytes are no message: truncated, or of a wire type that does not exist.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield Field(number, value)
            continue
        if kind == _LENGTH:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > end:
            raise ValueError("truncated")
        yield Field(number, span=message[at : at + size])
        at += size


def encode(number: int, value: bytes | str | int) -> bytes:
    """One field of a message, as `fields` reads it back; whole numbers from 0."""
    if isinstance(value, int):
        return _number(number << 3 | _VARINT) + _number(value)
    data = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | _LENGTH) + _number(len(data)) + data


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _varint(message: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("truncated" if at >= len(message) else "a number of more than ten bytes")
