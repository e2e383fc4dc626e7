"""Another name for the file that holds an ONNX graph's weights.

ONNX Runtime refuses weights behind a symbolic link, and in the hub's cache every file is one. The
file that the link means has another name, so the graph is given that name as it is read.
"""

from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort

FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protobuf
WIDTHS = {FIXED64: 8, FIXED32: 4}
# The fields on the way from a ModelProto to the places of its tensors' data (onnx.proto):
# message -> field number -> message of that field.
PATHS = {
    "Model": {7: "Graph", 25: "Function"},
    "Function": {7: "Node"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}


def with_weights(model: bytes, weights: Path, settings: ort.SessionOptions) -> bytes:
    """A ModelProto to open from memory, whose weights are what `weights` is or links to."""
    stored = weights.resolve()
    settings.add_session_config_entry(FOLDER_ENTRY, str(stored.parent))
    return model if stored.name == weights.name else relocate(model, weights.name, stored.name)


def relocate(model: bytes, name: str, new_name: str) -> bytes:
    """The ModelProto with its data in `new_name` where it was in `name`.

    Raises ValueError for bytes that are no ModelProto.
    """
    entry = _field(1, b"location") + _field(2, name.encode())
    new_entry = _field(1, b"location") + _field(2, new_name.encode())
    try:
        return _rewritten(memoryview(model), "Model", entry, new_entry)
    except IndexError as error:
        raise ValueError("the file is cut short") from error


def _rewritten(message: memoryview, kind: str, entry: bytes, new_entry: bytes) -> bytes:
    if kind == "Entry":
        return new_entry if message == entry else bytes(message)
    inner = PATHS[kind]
    parts: list[bytes | memoryview] = []
    for number, whole, content in _fields(message):
        if content is None or number not in inner:
            parts.append(whole)
        else:
            parts.append(_field(number, _rewritten(content, inner[number], entry, new_entry)))
    return b"".join(parts)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Each field's number, its bytes, and what is in it where that may be a message."""
    start = 0
    while start < len(message):
        tag, at = _varint(message, start)
        number, wire_type = tag >> 3, tag & 7
        content = None
        if wire_type == BYTES:
            size, at = _varint(message, at)
            content = message[at : at + size]
            at += size
        elif wire_type == VARINT:
            _, at = _varint(message, at)
        elif wire_type in WIDTHS:
            at += WIDTHS[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} is none of protobuf")
        if at > len(message):
            raise ValueError("the file is cut short")
        yield number, message[start:at], content
        start = at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next one begins."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _field(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
