"""What a graph of an engine may do (docs/security.md): compute with our operators on listed files.

ONNX has more than that: loops without an end, operators that read files or run code of other
libraries, tensors that lie anywhere on the disk.
"""

import math
from collections.abc import Mapping

from river_trt.backends.onnxruntime.graph import Graph, Node, Tensor, read_graph
from river_trt.errors import EngineError
from river_trt.manifest import REBUILD, FileInfo
from river_trt.native_library import BLOCKS, DOMAIN

MOST_BYTES = 64 << 20  # of the graph itself; weights lie outside
# What builders/onnxruntime writes, for every family.
ONNX = """
Add And Cast Concat Constant ConstantOfShape CumSum Div Equal Expand Gather Gelu Greater Identity
If Less LessOrEqual MatMul Min Mul Neg Not Or ReduceMax ReduceMean ReduceMin ReduceSum Reshape Shape
Sigmoid SimplifiedLayerNormalization Slice Split Sub Tanh Unsqueeze Where
"""
MICROSOFT = """
FusedMatMul GroupQueryAttention MatMulNBits QuickGelu SkipSimplifiedLayerNormalization
"""
OPERATORS = {
    "": frozenset(ONNX.split()),
    "com.microsoft": frozenset(MICROSOFT.split()),
    DOMAIN: frozenset({*BLOCKS.values(), "Head"}),
}
# Element types of TensorProto by their width in bits.
WIDTHS = {4: (21, 22), 8: (2, 3, 9), 16: (4, 5, 10, 16), 32: (1, 6, 12), 64: (7, 11, 13)}
BITS = {data_type: bits for bits, types in WIDTHS.items() for data_type in types}
# Inputs from there on are copied (plugins/cpu).
FIRST_WEIGHT = dict.fromkeys(BLOCKS.values(), 14) | {"Head": 1}


def check_graph(model: bytes, files: Mapping[str, FileInfo]) -> Graph:
    """The graph; EngineError, naming the operator or the tensor, where it breaks a rule.

    files: the manifest's.
    """
    try:
        graph = read_graph(model)
    except ValueError as error:
        raise EngineError(f"the engine's graph is none of ONNX ({error}); {REBUILD}") from error
    for node in graph.all_nodes():
        _check_node(node)
    for tensor in graph.all_initializers():
        _check_tensor(tensor, files)
    return graph


def places_in_use(graph: Graph, file: str) -> list[tuple[int, int]]:
    """First byte and end of the file's tensors that are read after the session was made.

    The native operators copy their weights; all others are read where they lie.
    """
    copied: set[str] = set()
    used = set(graph.outputs)
    for node in graph.all_nodes():
        first = FIRST_WEIGHT[node.op_type] if node.domain == DOMAIN else len(node.inputs)
        used.update(node.inputs[:first])
        copied.update(node.inputs[first:])
    return [
        (int(tensor.place.get("offset", 0)), int(tensor.place.get("offset", 0)) + _bytes_of(tensor))
        for tensor in graph.all_initializers()
        if tensor.is_external
        and tensor.place["location"] == file
        and (tensor.name in used or tensor.name not in copied)
    ]


def _check_node(node: Node) -> None:
    if node.op_type not in OPERATORS.get(node.domain, ()):
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise EngineError(
            f"the engine's graph holds the operator {name!r}, which no river engine has; "
            "do not use this engine"
        )
    if node.branches and node.op_type != "If":
        raise EngineError(f"the engine's graph has a branch in {node.op_type!r}; {REBUILD}")
    # ONNX Runtime ends the process where these two differ.
    sized = len(node.inputs) > 1  # by a tensor, with which it checks them itself
    if (
        node.op_type == "Split"
        and not sized
        and node.integers.get("num_outputs") != len(node.outputs)
    ):
        raise EngineError(
            f"the engine's graph has a 'Split' of {node.integers.get('num_outputs')} parts with "
            f"{len(node.outputs)} outputs; {REBUILD}"
        )
    if any(tensor.is_external for tensor in node.tensors):
        raise EngineError(
            f"the engine's graph has an attribute of {node.op_type!r} in a file; {REBUILD}"
        )


def _check_tensor(tensor: Tensor, files: Mapping[str, FileInfo]) -> None:
    if not tensor.is_external:
        return
    location = tensor.place.get("location", "")
    if location not in files:
        raise EngineError(
            f"the engine's graph has the tensor {tensor.name!r} in {location!r}, which the "
            "manifest does not list; do not use this engine"
        )
    needed = _bytes_of(tensor)
    offset, length = (
        _place(tensor, key, default) for key, default in (("offset", 0), ("length", needed))
    )
    if length != needed or offset + length > files[location].size:
        raise EngineError(
            f"the engine's graph has the tensor {tensor.name!r} of {needed} bytes at {offset} of "
            f"{location}, which has {files[location].size}; {REBUILD}"
        )


def _bytes_of(tensor: Tensor) -> int:
    bits = BITS.get(tensor.data_type)
    if bits is None or any(size >= 1 << 62 for size in tensor.shape):  # a negative one is as large
        raise EngineError(
            f"the engine's graph has the tensor {tensor.name!r} of type {tensor.data_type} and "
            f"shape {tensor.shape}; {REBUILD}"
        )
    return -(-math.prod(tensor.shape) * bits // 8)


def _place(tensor: Tensor, key: str, default: int) -> int:
    text = tensor.place.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise EngineError(
            f"the engine's graph has the tensor {tensor.name!r} at the {key} {text[:20]!r}; "
            f"{REBUILD}"
        )
    return int(text)
