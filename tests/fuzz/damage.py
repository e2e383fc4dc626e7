"""Ways to damage an engine: bytes, graphs that a library would take, files that are none.

`damaged` changes a copy of an engine and, mostly, its manifest with it: right hashes are no defence
against who made the engine.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from river_trt.engine_dir import sha256

WILD = (0, 1, -1, 2, 3, 7, 16, 31, 33, 64, 4096, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1)
WILD_VALUES = (
    *(None, True, "", "x", "\0", "\ud800", "\x1b[2J", "../x", "/dev/zero", [], {}, [[]], -1, 0, 1),
    *(2**31, 2**63, 10**60, 10**400, 1e308, "inf", "nan", [0] * 50, {"a": {"b": []}}, "9" * 5000),
)
Damage = Callable[[Path, random.Random], None]


def damaged(directory: Path, choice: random.Random) -> str:
    """Damage the engine in place; what was done."""
    names = choice.choices(list(DAMAGES), k=choice.randint(1, 2))
    for name in names:
        DAMAGES[name](directory, choice)
    if choice.random() < 0.85:
        _make_right(directory)
    return " and ".join(names)


def _make_right(directory: Path) -> None:
    """The manifest's sizes and hashes are those of the files."""
    path = directory / "manifest.json"
    if not path.is_file() or path.stat().st_size > 1 << 24:
        return
    try:
        data = json.loads(path.read_bytes())
        listed = data["files"]
        for name in listed:
            file = directory / name
            if file.is_file() and file.stat().st_size < 1 << 24:
                listed[name] = {"size": file.stat().st_size, "sha256": sha256(file)}
        path.write_text(json.dumps(data))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return  # it is damaged itself


def _file(directory: Path, choice: random.Random) -> Path:
    return choice.choice(sorted(directory.iterdir()))


def flip_bytes(directory: Path, choice: random.Random) -> None:
    path = _file(directory, choice)
    if path.is_file() and path.stat().st_size < 1 << 24:
        data = bytearray(path.read_bytes())
        for _ in range(choice.choice((1, 3, 30))):
            if data:
                data[choice.randrange(len(data))] = choice.randrange(256)
        path.write_bytes(data)


def cut(directory: Path, choice: random.Random) -> None:
    path = _file(directory, choice)
    if path.is_file():
        size = path.stat().st_size
        os.truncate(path, choice.choice((0, size // 2, max(0, size - 1), size + 1, 1 << 40)))


def change_kind(directory: Path, choice: random.Random) -> None:
    path = _file(directory, choice)
    if not path.is_file():
        return
    path.unlink()
    match choice.randrange(5):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.name)
        case 3:
            path.symlink_to("/dev/zero")
        case 4:
            path.symlink_to(choice.choice(("manifest.json", "model.data", "nothing")))


def write_text(directory: Path, choice: random.Random) -> None:
    """Content of another kind under a known name."""
    name = choice.choice(("manifest.json", "tokenizer.json", "chat_template.jinja", "model.onnx"))
    content = choice.choice(
        (b"", b"\xff\xfe\0", b"[" * 100_000, b'{"a":' * 50_000, b"{}", b"null", b"\0" * 4096)
    )
    if not (directory / name).is_dir() and not (directory / name).is_fifo():
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_bytes(content)


def change_manifest(directory: Path, choice: random.Random) -> None:
    path = directory / "manifest.json"
    try:
        small = path.is_file() and path.stat().st_size < 1 << 24
        data = json.loads(path.read_bytes()) if small else None
    except (ValueError, RecursionError):
        return
    if not isinstance(data, dict):
        return
    for _ in range(choice.choice((1, 1, 3))):
        node, key = data, choice.choice(sorted(data) or ["x"])
        while isinstance(node.get(key), dict) and node[key] and choice.random() < 0.9:
            node = node[key]
            key = choice.choice(sorted(node))
        match choice.randrange(4):
            case 0:
                node.pop(key, None)
            case 1:
                node[choice.choice(("novelty", "\ud800", "a\0b", "../x"))] = node.get(key)
            case _:
                node[key] = choice.choice(WILD_VALUES)
    path.write_text(json.dumps(data))


def change_graph(directory: Path, choice: random.Random) -> None:
    """As who knows ONNX would: shapes, attributes, inputs, operators, places of tensors."""
    path = directory / "model.onnx"
    try:
        small = path.is_file() and path.stat().st_size < 1 << 24
        model = onnx.load_from_string(path.read_bytes()) if small else None
    except Exception:  # damaged before
        return
    if model is None or not model.graph.node:
        return
    for _ in range(choice.choice((1, 1, 2, 4))):
        choice.choice(GRAPH_DAMAGES)(model.graph, choice)
    path.write_bytes(model.SerializeToString())


def _graph(graph: onnx.GraphProto, choice: random.Random) -> onnx.GraphProto:
    """The graph or a branch of it."""
    branches = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return _graph(choice.choice(branches), choice) if branches and choice.random() < 0.5 else graph


def _attribute(graph: onnx.GraphProto, choice: random.Random) -> None:
    node = choice.choice(_graph(graph, choice).node or graph.node)
    for attribute in choice.sample(list(node.attribute), min(1, len(node.attribute))):
        if attribute.type == onnx.AttributeProto.INT:
            wild = choice.random() < 0.6
            attribute.i = choice.choice(WILD) if wild else attribute.i + choice.choice((-1, 1))
        elif attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = choice.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
        elif attribute.type == onnx.AttributeProto.INTS and attribute.ints:
            attribute.ints[0] = choice.choice(WILD)


def _inputs(graph: onnx.GraphProto, choice: random.Random) -> None:
    node = choice.choice(_graph(graph, choice).node or graph.node)
    if not node.input:
        return
    at = choice.randrange(len(node.input))
    known = [name for other in graph.node for name in (*other.input, *other.output) if name]
    match choice.randrange(4):
        case 0:
            node.input[at] = ""
        case 1:
            del node.input[at:]
        case 2:
            node.input[at] = choice.choice(known)
        case 3:
            other = choice.randrange(len(node.input))
            node.input[at], node.input[other] = node.input[other], node.input[at]


def _outputs(graph: onnx.GraphProto, choice: random.Random) -> None:
    node = choice.choice(graph.node)
    if node.output:
        node.output[choice.randrange(len(node.output))] = choice.choice(("", "unused"))


def _tensor(graph: onnx.GraphProto, choice: random.Random) -> None:
    tensors = _graph(graph, choice).initializer
    if not tensors:
        return
    tensor = choice.choice(tensors)
    match choice.randrange(5):
        case 0 if tensor.dims:
            at = choice.randrange(len(tensor.dims))
            step = choice.choice((-1, 1, -16, 16))
            tensor.dims[at] = max(0, tensor.dims[at] + step)
        case 1:
            tensor.dims.insert(0, choice.choice((1, 2)))
        case 2:
            tensor.data_type = choice.choice((1, 2, 3, 6, 7, 9, 10, 16, 99))
        case 3 | 4:
            for entry in tensor.external_data:
                if choice.random() < 0.5:
                    wild = (entry.value + "0", "0", "-1", "999999999", "manifest.json", "x", "")
                    entry.value = choice.choice(wild)
    if choice.random() < 0.5:  # the place fits the shape again
        _fit(tensor)


def _fit(tensor: TensorProto) -> None:
    size = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 16: 2}.get(tensor.data_type, 1)
    for dimension in tensor.dims:
        size *= dimension
    for entry in tensor.external_data:
        if entry.key == "length":
            entry.value = str(size)


def _operator(graph: onnx.GraphProto, choice: random.Random) -> None:
    node = choice.choice(_graph(graph, choice).node or graph.node)
    node.op_type = choice.choice(
        ("Loop", "Scan", "Tile", "Mul", "MatMul", "Gather", "Reshape", "ConstantOfShape", "Block")
    )
    if choice.random() < 0.3:
        node.domain = choice.choice(("", "com.microsoft", "river_trt.cpu", "other"))


def _shapes(graph: onnx.GraphProto, choice: random.Random) -> None:
    value = choice.choice([*graph.input, *graph.output])
    dims = value.type.tensor_type.shape.dim
    if dims and choice.random() < 0.7:
        dims[choice.randrange(len(dims))].dim_value = choice.choice((0, 1, 2, 7, 10**9))
    else:
        value.type.tensor_type.elem_type = choice.choice((1, 6, 7, 9, 10))


def _remove(graph: onnx.GraphProto, choice: random.Random) -> None:
    del graph.node[choice.randrange(len(graph.node))]


def _endless(graph: onnx.GraphProto, choice: random.Random) -> None:
    body = helper.make_graph([], "body", [], [])
    graph.node.append(helper.make_node("Loop", ["", ""], ["endless"], body=body))


GRAPH_DAMAGES = (
    *(_attribute, _attribute, _inputs, _inputs, _outputs, _tensor, _tensor),
    *(_operator, _shapes, _remove, _endless),
)
DAMAGES: dict[str, Damage] = {
    "bytes flipped": flip_bytes,
    "a file cut": cut,
    "another kind of file": change_kind,
    "other content": write_text,
    "another manifest": change_manifest,
    "another graph": change_graph,
    "one more graph": change_graph,
}
