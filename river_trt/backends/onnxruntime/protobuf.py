"""The wire format of protobuf, as far as reading a file of ONNX needs it."""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
WIDTHS = {FIXED64: 8, FIXED32: 4}
MOST_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its number, its value, and all of its bytes."""

    number: int
    value: int | memoryview  # of VARINT and of BYTES; 0 for what no message here has
    whole: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Raises ValueError for bytes that are no message."""
    start = 0
    while start < len(message):
        tag, at = _varint(message, start)
        number, wire_type = tag >> 3, tag & 7
        value: int | memoryview = 0
        if wire_type == BYTES:
            size, at = _varint(message, at)
            value = message[at : at + size]
            at += size
        elif wire_type == VARINT:
            value, at = _varint(message, at)
        elif wire_type in WIDTHS:
            at += WIDTHS[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} is none of protobuf")
        if at > len(message):
            raise ValueError("the file is cut short")
        yield Field(number, value, message[start:at])
        start = at


def varints(packed: memoryview) -> Iterator[int]:
    """The numbers of a packed field."""
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next one begins."""
    value = 0
    for shift in range(0, 7 * MOST_VARINT_BYTES, 7):
        if at >= len(message):
            raise ValueError("the file is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has too many bytes")
