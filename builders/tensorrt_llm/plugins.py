"""Adds river-trt's TensorRT plugins to a TensorRT-LLM network (contract: docs/plugin.md)."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorrt as trt
from tensorrt_llm._common import default_trtnet
from tensorrt_llm.functional import Tensor, _create_tensor

from river_trt.backends.tensorrt_llm import load_plugin
from river_trt.errors import RiverError

NAMESPACE, VERSION = "river_trt", "1"


def add_plugin(
    kind: str, name: str, fields: Mapping[str, int | float], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """A plugin layer's outputs. RiverError where no library is built or it refuses the fields.

    Whole numbers become int32 fields, the others float32.
    """
    load_plugin()  # here too: trtllm-build and its workers come this way only
    creator = trt.get_plugin_registry().get_creator(kind, VERSION, NAMESPACE)
    assert creator is not None, f"the library has no {kind}"
    # A field points into its array: all of them live until the plugin is made.
    arrays = [
        np.array([value], np.int32 if isinstance(value, int) else np.float32)
        for value in fields.values()
    ]
    types = {"int32": trt.PluginFieldType.INT32, "float32": trt.PluginFieldType.FLOAT32}
    collection = trt.PluginFieldCollection(
        [
            trt.PluginField(field, array, types[array.dtype.name])
            for field, array in zip(fields, arrays, strict=True)
        ]
    )
    plugin = creator.create_plugin(name, collection, trt.TensorRTPhase.BUILD)
    if plugin is None:
        raise RiverError(f"plugin {kind} refuses {name!r} with {dict(fields)}; its log says why")
    layer = default_trtnet().add_plugin_v3([tensor.trt_tensor for tensor in inputs], [], plugin)
    return [_create_tensor(layer.get_output(index), layer) for index in range(layer.num_outputs)]
