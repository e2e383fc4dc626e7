"""The plugin library in a real TensorRT: TensorRT-RTX's registry, ONNX parser and builder.

TensorRT-RTX runs its build phase without a GPU. Every case is a process of its own, because a
parser or builder that aborts takes its process along. Running an engine needs a GPU: not covered.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.plugins import native
from tests.plugins.river_graph import HIDDEN, LAYERS, RiverGraph, two_layers

BUILDER = Path(__file__).with_name("rtx_build.py")
PER_LAYER = ("qkv", "attention", "o", "gate_up", "down", "gate")


@pytest.fixture
def build(tmp_path):
    """Builds a graph; returns the exit code, what was logged, and the result where there is one."""
    native.skip_without_package("tensorrt-rtx-cu13")
    library = native.build("river_trt_plugin") / "libriver_trt_plugin.so"
    # The parser opens the builder's library by a name that the wheel does not have.
    wheel = find_spec("tensorrt_rtx_libs")
    assert wheel is not None and wheel.submodule_search_locations
    real = next(Path(wheel.submodule_search_locations[0]).glob("libtensorrt_rtx.so.*"))
    (tmp_path / "libtensorrt_rtx.so").symlink_to(real)

    def run(graph: RiverGraph, *options: str):
        model, result = tmp_path / "model.onnx", tmp_path / "result.json"
        onnx.save(graph.model(), model)
        done = subprocess.run(
            [sys.executable, BUILDER, library, model, result, *options],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        )
        built = json.loads(result.read_text()) if result.exists() else None
        return done.returncode, done.stdout + done.stderr, built

    return run


def one_linear(activation=TensorProto.FLOAT16, flag_type=TensorProto.INT32) -> RiverGraph:
    graph = RiverGraph(activation)
    x = graph.input("x", activation, ["batch", "seq", HIDDEN])
    flags = graph.input("use_river", flag_type, ["batch", "seq"])
    graph.output(graph.linear("layers.1.qkv", x, 48, HIDDEN, flags), activation, [])
    graph.outputs[0] = helper.make_tensor_value_info(
        graph.outputs[0].name, activation, ["batch", "seq", 48]
    )
    return graph


def node(graph: RiverGraph, name: str) -> onnx.NodeProto:
    return next(node for node in graph.nodes if node.name == name)


@pytest.mark.parametrize("activation", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("aliased", [True, False])
def test_an_sm80_engine_of_two_layers_with_all_three_plugins(build, activation, aliased):
    graph = two_layers(activation)
    for layer in range(1, LAYERS + 1):
        attribute = helper.make_attribute("aliased_caches", int(aliased))
        node(graph, f"layers.{layer}.attention").attribute.append(attribute)
    code, log, result = build(graph, *(["aliased"] if aliased else []))
    assert code == 0, log
    assert result["plugins"] == [
        f"layers.{layer}.{part}" for layer in range(1, LAYERS + 1) for part in PER_LAYER
    ]
    assert result["engine_bytes"] > 100_000  # the constants are in it
    assert "ERROR" not in log


def test_aliased_caches_without_the_preview_feature_are_refused_by_the_builder(build):
    code, log, _ = build(two_layers())
    assert code == 1
    assert "kALIASED_PLUGIN_IO_10_03 not enabled" in log


def replace_constant(graph: RiverGraph, name: str, *shape: int) -> None:
    graph.constants[:] = [tensor for tensor in graph.constants if tensor.name != name]
    graph.packed(name, *shape)


def test_a_wrong_shape_is_our_message(build):
    graph = one_linear()
    replace_constant(graph, "layers.1.qkv.qweight", 48, 7)
    code, log, _ = build(graph)
    assert code == 1
    assert (
        "RiverLinear 'layers.1.qkv': qweight is [48, 7], but must be [48, 8]: "
        "N = 48, K = 64, groups of 32" in log
    )


def test_wrong_types_are_our_message(build):
    code, log, _ = build(one_linear(flag_type=TensorProto.INT64))
    assert code != 0
    assert "RiverLinear 'layers.1.qkv': use_river is int64, but must be int32" in log
    code, log, _ = build(one_linear(activation=TensorProto.FLOAT))
    assert code != 0
    assert "x is float32, but must be float16 or bfloat16" in log


def test_a_bad_attribute_is_our_message(build):
    graph = two_layers()
    layer = next(item for item in node(graph, "layers.2.gate").attribute if item.name == "layer")
    layer.i = 3
    code, log, _ = build(graph)
    assert code != 0
    assert "RiverGate 'layers.2.gate': layer = 3, but must be 1 to 2" in log


def test_a_missing_input_is_our_message(build):
    graph = one_linear()
    del node(graph, "layers.1.qkv").input[-1]
    code, log, _ = build(graph)
    assert code != 0
    assert "its attributes ask for 6 and 1: x, use_river, weight" in log


def test_another_namespace_is_not_found(build):
    graph = one_linear()
    space = next(
        item for item in node(graph, "layers.1.qkv").attribute if item.name == "plugin_namespace"
    )
    space.s = b"elsewhere"
    code, log, _ = build(graph)
    assert code != 0
    assert "Plugin not found" in log
