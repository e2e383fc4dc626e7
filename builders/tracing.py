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
from builders.example_step import example_step
from builders.families import ModelConfig
from builders.quiet import quietly
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS, cache_names

OPSET_VERSION = 24


def trace(config: ModelConfig, river: RiverFormat, max_seq_len: int) -> ExportedProgram:
    """The weightless program of one step; batch, seq, cache length and num_logits are dynamic.

    Load real weights with `program.module()` and `load_state_dict(..., assign=True)` to run it.
    """
    with torch.device("meta"):
        decoder = RiverDecoder(config, river, max_seq_len, tied=False)
        inputs, caches = example_step(config)
    batch, seq = Dim("batch"), Dim("seq", max=max_seq_len)
    cache, num_logits = Dim("cache"), Dim("num_logits")
    step = ({0: batch, 1: seq}, {0: batch}, {0: num_logits})
    shapes = (*step, *(None for _ in POLICY_INPUTS), [{0: batch, 2: cache}] * len(caches))
    return torch.export.export(decoder, (*inputs, caches), dynamic_shapes=shapes)


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
