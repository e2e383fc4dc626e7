"""An ONNX file's weights under another name, as the onnx package itself would write it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from river_trt.backends.onnxruntime.location import relocate


def external(name, location):
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "64"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(name, tensors, nodes=()):
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph(list(nodes), name, [], [output], initializer=tensors)


def model_of(location):
    inner = graph_of("then", [external("inner", location)])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner, at=300)
    constant = helper.make_node("Constant", [], ["c"], value=external("constant", location))
    graph = graph_of("main", [external("w", location), external("v", "other")], [branch, constant])
    return helper.make_model(graph, producer_name="x" * 200)


@pytest.mark.parametrize("new", ["a" * 64, "b", "model.data"])
def test_every_tensor_of_the_file_is_found_and_no_other(new):
    moved = onnx.ModelProto.FromString(
        relocate(model_of("model.data").SerializeToString(), "model.data", new)
    )
    assert moved == model_of(new)


@pytest.mark.parametrize("damage", [b"\x07", b"\x3a\x05ab", b"\xff", b"\x0d\x00"])
def test_bytes_that_are_no_model(damage):
    with pytest.raises(ValueError, match=r"cut short|wire type"):
        relocate(damage, "model.data", "x")
