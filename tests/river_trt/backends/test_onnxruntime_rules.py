"""Graphs that a library would run and an engine must not hold."""

import contextlib
import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from river_trt import EngineError
from river_trt.backends.onnxruntime.graph import read_graph
from river_trt.backends.onnxruntime.rules import check_graph, places_in_use
from river_trt.manifest import FileInfo
from river_trt.native_library import DOMAIN

FILES = {"model.onnx": FileInfo(100, ""), "model.data": FileInfo(1000, "")}
FLOAT = TensorProto.FLOAT


def external(name="weight", shape=(10, 5), data_type=FLOAT, **place) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=data_type)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "model.data", "offset": "64", "length": "200"} | place).items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def model(nodes=(), initializers=(), **fields) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers))
    made = helper.make_model(graph)
    for name, value in fields.items():
        getattr(made, name).append(value)
    return made


def checked(made: onnx.ModelProto):
    return check_graph(made.SerializeToString(), FILES)


def add(*names: str) -> onnx.NodeProto:
    return helper.make_node("Add", names, [f"sum_of_{'_'.join(names)}"])


def branch(*nodes: onnx.NodeProto, initializers=()) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes), "b", [], [helper.make_empty_tensor_value_info("y")], list(initializers)
    )


def conditional(body: onnx.GraphProto, op_type: str = "If") -> onnx.NodeProto:
    return helper.make_node(op_type, ["c"], ["y"], then_branch=body, else_branch=branch())


def test_what_builders_write_is_read_whole():
    body = branch(add("a", "weight"), initializers=[external("inner", (2, 5), length="40")])
    graph = checked(model([add("x", "y"), conditional(body)], [external()]))
    assert [node.op_type for node in graph.all_nodes()] == ["Add", "If", "Add"]
    assert [tensor.name for tensor in graph.all_initializers()] == ["weight", "inner"]
    assert graph.nodes[0].inputs == ["x", "y"] and graph.initializers[0].shape == [10, 5]


OPERATORS = {
    "endless loop": helper.make_node("Loop", ["", "c"], ["y"], body=branch()),
    "scan": helper.make_node("Scan", ["x"], ["y"], body=branch(), num_scan_inputs=1),
    "one that fills memory": helper.make_node("Tile", ["x", "n"], ["y"]),
    "of another library": helper.make_node("Block", ["x"], ["y"], domain="others"),
    "unknown of Microsoft": helper.make_node("Attention", ["x"], ["y"], domain="com.microsoft"),
    "unknown of ours": helper.make_node("Blocks", ["x"], ["y"], domain=DOMAIN),
    "without a name": helper.make_node("", ["x"], ["y"]),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_operators_that_no_engine_has(name, depth):
    node = OPERATORS[name]
    for _ in range(depth):
        node = conditional(branch(add("a", "b"), node))
    with pytest.raises(EngineError, match="which no river engine has") as error:
        checked(model([add("x", "y"), node]))
    assert repr(node.op_type) in str(error.value) or depth or node.domain


TENSORS = {
    "file outside": (external(location="../secret"), "which the manifest does not list"),
    "absolute file": (external(location="/etc/passwd"), "which the manifest does not list"),
    "file of the directory that is not listed": (external(location="other"), "does not list"),
    "no file": (external(location=None), "does not list"),
    "past the end": (external(offset="801"), "which has 1000"),
    "longer than its shape": (external(length="201"), "of 200 bytes"),
    "larger than the file": (external(shape=(10**6, 10**6), length=None), "which has 1000"),
    "sizes that wrap": (external(shape=(2**61, 8), length="0"), "of 73786976294838206464 bytes"),
    "negative size": (external(shape=(-1, 5)), "shape"),
    "offset that is no number": (external(offset="-64"), "at the offset '-64'"),
    "offset of other digits": (external(offset="٤"), "at the offset"),
    "huge offset": (external(offset="9" * 500), "at the offset '99999999999999999999'"),
    "text": (external(data_type=TensorProto.STRING), "of type 8"),
    "unknown type": (external(data_type=99), "of type 99"),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("inner", [False, True])
def test_tensors_that_lie_elsewhere(name, inner):
    tensor, message = TENSORS[name]
    body = branch(add("a", "b"), initializers=[tensor])
    made = model([conditional(body)]) if inner else model([add("x", "y")], [tensor])
    with pytest.raises(EngineError, match=message):
        checked(made)


def test_split_into_another_number_than_its_outputs():
    """ONNX Runtime aborts there."""
    for given in ({"num_outputs": 1}, {"num_outputs": 3}, {}):
        node = helper.make_node("Split", ["x"], ["a", "b"], axis=2, **given)
        with pytest.raises(EngineError, match="'Split' of .* parts with 2 outputs"):
            checked(model([node]))
    checked(model([helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2)]))


def test_attribute_in_a_file():
    node = helper.make_node("Constant", [], ["y"], value=external())
    with pytest.raises(EngineError, match="attribute of 'Constant' in a file"):
        checked(model([node]))


def function() -> onnx.FunctionProto:
    node = helper.make_node("Loop", ["", "c"], ["y"])
    return helper.make_function("d", "Add", ["x"], ["y"], [node], [])


FOREIGN = {
    "functions": model([add("x", "y")], functions=function()),
    "training information": model([add("x", "y")], training_info=onnx.TrainingInfoProto()),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_parts_that_nothing_here_writes(name):
    with pytest.raises(EngineError, match=f"it has {name}"):
        checked(FOREIGN[name])


def test_branches_without_an_end():
    node = add("x", "y")
    for _ in range(20):
        node = conditional(branch(node))
    with pytest.raises(EngineError, match="branches in branches"):
        checked(model([node]))


def test_message_that_comes_twice_hides_nothing():
    """protobuf joins two graphs of a file; the last of two names of an operator counts."""
    hidden = model([OPERATORS["endless loop"]]).SerializeToString()
    with pytest.raises(EngineError, match="'Loop'"):
        check_graph(model([add("x", "y")]).SerializeToString() + hidden, FILES)
    twice = add("x", "y").SerializeToString() + onnx.NodeProto(op_type="Loop").SerializeToString()
    graph = b"\x0a" + bytes([len(twice)]) + twice
    with pytest.raises(EngineError, match="comes twice"):
        check_graph(b"\x3a" + bytes([len(graph)]) + graph, FILES)


@pytest.mark.parametrize(
    "data", [b"\x00\xff", b"\x3a", b"\x3a\xff\xff\xff\xff\xff", b"\x08" + b"\xff" * 20, b"\x0b"]
)
def test_bytes_that_are_no_graph(data):
    with pytest.raises(EngineError, match="none of ONNX"):
        check_graph(data, FILES)


def test_every_cut_and_every_changed_byte_is_a_sentence_or_a_graph():
    whole = model([add("x", "y"), conditional(branch(add("a", "b")))], [external()])
    data = whole.SerializeToString()
    generator = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(data[: generator.integers(1, len(data) + 1)])
        for _ in range(generator.integers(0, 4)):
            damaged[generator.integers(len(damaged))] = generator.integers(256)
        with contextlib.suppress(EngineError):
            check_graph(bytes(damaged), FILES)


def test_weights_that_native_operators_copy_are_not_in_use():
    block = helper.make_node(
        "Block", [*(f"i{n}" for n in range(13)), "sin", "o"], ["h"], domain=DOMAIN
    )
    head = helper.make_node("Head", ["h", "head"], ["logits"], domain=DOMAIN)
    names = ("sin", "o", "head", "embedding", "both", "nobody")
    tensors = [
        external(name, (10,), offset=str(100 * n), length="40") for n, name in enumerate(names)
    ]
    head.input.append("both")
    graph = checked(model([block, head, add("embedding", "both")], tensors))
    places = places_in_use(graph, "model.data")
    assert places == [(0, 40), (300, 340), (400, 440), (500, 540)]
    assert dataclasses.is_dataclass(read_graph(model([block]).SerializeToString()))
