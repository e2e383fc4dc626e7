"""The plugin layers of a constructed network, given to the real plugin library in TensorRT-RTX.

The double's contract is a transcription; here the C++ creators take the same fields, and the
builder asks the C++ plugins about the same types and shapes. Each layer becomes an ONNX node,
because TensorRT-RTX takes plugins from its parser only.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt_rtx as trt
from onnx import TensorProto, helper

from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tensorrt_llm.conversions import convert
from tests.builders.tensorrt_llm.double.builder import Request, run_step
from tests.builders.tensorrt_llm.double.install import installed
from tests.builders.tensorrt_llm.double.network import Network
from tests.builders.tensorrt_llm.double.plugins import SIGNATURES
from tests.builders.tensorrt_llm.stepping import load_models
from tests.builders.tiny_engines import policy
from tests.plugins import native

BUILDER = Path(native.__file__).with_name("rtx_build.py")
DIRECTIONS = np.ones((3, 64), np.float32)
KINDS = {
    trt.float16: TensorProto.FLOAT16,
    trt.bfloat16: TensorProto.BFLOAT16,
    trt.float32: TensorProto.FLOAT,
    trt.int32: TensorProto.INT32,
}


def plugin_graph(network: Network) -> onnx.ModelProto:
    """Every plugin layer as a node; what it reads are inputs, what it computes are outputs."""
    shapes = network_shapes(network)
    nodes, inputs, outputs = [], {}, []
    for event in network.events:
        if event.kind not in SIGNATURES:
            continue
        names = [name.replace(" ", "_") for name in event.inputs]
        results = [f"{event.name}.{index}" for index in range(len(event.outputs))]
        attributes = {"plugin_version": "1", "plugin_namespace": "river_trt", **event.fields}
        nodes.append(helper.make_node(event.kind, names, results, name=event.name, **attributes))
        for name, tensor in zip(names, event.inputs, strict=True):
            kind, shape = shapes[tensor]
            dims = ["tokens" if size == -1 else size for size in shape]
            inputs[name] = helper.make_tensor_value_info(name, KINDS[kind], dims)
        for result, tensor in zip(results, event.outputs, strict=True):
            kind, shape = shapes[tensor]
            dims = ["tokens" if size == -1 else size for size in shape]
            outputs.append(helper.make_tensor_value_info(result, KINDS[kind], dims))
    graph = helper.make_graph(nodes, "plugins", list(inputs.values()), outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def network_shapes(network: Network) -> dict[str, tuple]:
    """Type and shape of every tensor of the TensorRT network, by name."""
    definition, found = network.definition, {}
    for index in range(definition.num_inputs):
        tensor = definition.get_input(index)
        found[tensor.name] = (tensor.dtype, tuple(tensor.shape))
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            found[tensor.name] = (tensor.dtype, tuple(tensor.shape))
    return found


@pytest.mark.parametrize(
    ("family", "dtype", "directions"), [("llama", "float16", False), ("gemma3", "bfloat16", True)]
)
def test_the_real_plugins_take_every_layer(tmp_path, family, dtype, directions):
    native.skip_without_package("tensorrt-rtx-cu13")
    library = native.build("river_trt_plugin") / "libriver_trt_plugin.so"
    save_tiny_model(tmp_path / "model", TINY_MODELS[family])
    chosen = policy(3, 0.5, directions=DIRECTIONS if directions else None)
    checkpoint = convert(tmp_path / "model", tmp_path / "c", policy=chosen, dtype=dtype)
    with installed():
        (network,), _, _ = run_step(load_models(checkpoint), [{}], [Request(0, [5, 6], 0, 2)])
        onnx.save(plugin_graph(network), tmp_path / "plugins.onnx")
    # The parser opens the builder's library by a name that the wheel does not have.
    wheel = find_spec("tensorrt_rtx_libs")
    real = next(Path(wheel.submodule_search_locations[0]).glob("libtensorrt_rtx.so.*"))
    (tmp_path / "libtensorrt_rtx.so").symlink_to(real)
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, BUILDER, library, tmp_path / "plugins.onnx", result],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    wanted = [event.name for event in network.events if event.kind in SIGNATURES]
    assert json.loads(result.read_text())["plugins"] == wanted
    assert len(wanted) == 3 * 5
