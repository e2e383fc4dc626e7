"""Another name for the file that holds an ONNX graph's weights.

ONNX Runtime refuses weights behind a symbolic link, and in the hub's cache every file is one. The
file that the link means has another name, so the graph is given that name as it is read.
"""

from pathlib import Path

import onnxruntime as ort

from river_trt.backends.onnxruntime.protobuf import BYTES, fields

FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
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
    return _rewritten(memoryview(model), "Model", entry, new_entry)


def _rewritten(message: memoryview, kind: str, entry: bytes, new_entry: bytes) -> bytes:
    if kind == "Entry":
        return new_entry if message == entry else bytes(message)
    inner = PATHS[kind]
    parts: list[bytes | memoryview] = []
    for item in fields(message):
        if isinstance(item.value, int) or item.number not in inner:
            parts.append(item.whole)
        else:
            content = _rewritten(item.value, inner[item.number], entry, new_entry)
            parts.append(_field(item.number, content))
    return b"".join(parts)


def _field(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
