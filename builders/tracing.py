"""RiverDecoder to ExportedProgram and to ONNX in the river dialect, without any weights.

The decoder is traced on the meta device, so tracing an 80-layer model costs no weight memory;
backends read the weights later, layer by layer, under the names of the traced buffers.
"""

import onnx_ir
import onnxscript.optimizer
import torch
from torch.export import Dim, ExportedProgram

from builders import onnx_schemas
from builders.decoder import RiverDecoder, RiverFormat
from builders.families import ModelConfig
from builders.quiet import quietly
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS, cache_names

OPSET_VERSION = 24
# Sizes of the example step. All differ, so that no two dynamic axes are taken for one.
_BATCH, _SEQ, _CACHE, _NUM_LOGITS = 2, 3, 7, 5


def trace(config: ModelConfig, river: RiverFormat, max_seq_len: int) -> ExportedProgram:
    """The weightless program of one step; batch, seq, cache length and num_logits are dynamic.

    Load real weights with `program.module()` and `load_state_dict(..., assign=True)` to run it.
    """
    with torch.device("meta"):
        decoder = RiverDecoder(config, river, max_seq_len, tied=False)
        inputs = _example_inputs(config)
    batch, seq = Dim("batch"), Dim("seq", max=max_seq_len)
    cache, num_logits = Dim("cache"), Dim("num_logits")
    caches = [{0: batch, 2: cache}] * (2 * config.num_layers)
    step = ({0: batch, 1: seq}, {0: batch}, {0: num_logits})
    shapes = (*step, *(None for _ in POLICY_INPUTS), caches)
    return torch.export.export(decoder, inputs, dynamic_shapes=shapes)


def to_onnx(program: ExportedProgram, num_layers: int) -> onnx_ir.Model:
    """The traced program as ONNX: plain operators and the domain river_trt.

    Inputs and outputs carry the names of river_trt.spec; initializers carry buffer names and
    have no data.
    """
    onnx_schemas.register_schemas()
    with quietly():  # it warns of torchvision, which is not wanted, and of its own future
        exported = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,  # the optimiser reads initializers, which are on the meta device
            opset_version=OPSET_VERSION,
            input_names=[*STEP_INPUTS, *POLICY_INPUTS, *cache_names(num_layers)],
            output_names=["logits", "exit_layer", *cache_names(num_layers, "_out")],
            custom_translation_table=onnx_schemas.translation_table(),
            verbose=False,
        )
    assert exported is not None
    model = exported.model
    for initializer in model.graph.initializers.values():
        initializer.const_value = None
    onnxscript.optimizer.fold_constants(model)
    onnxscript.optimizer.remove_unused_nodes(model)
    return model


def _example_inputs(config: ModelConfig) -> tuple[object, ...]:
    layers = config.num_layers
    cache = (_BATCH, config.num_kv_heads, _CACHE, config.head_dim)
    return (
        torch.zeros(_BATCH, _SEQ, dtype=torch.int64),
        torch.zeros(_BATCH, dtype=torch.int32),
        torch.zeros(_NUM_LOGITS, dtype=torch.int64),
        torch.zeros(layers),
        torch.zeros(layers, dtype=torch.bool),
        torch.zeros((), dtype=torch.bool),
        torch.zeros(layers, config.hidden_size),
        torch.zeros((), dtype=torch.int32),
        [torch.zeros(cache) for _ in range(2 * layers)],
    )
