"""Compiling a device's program to a .pt2 package, without its weights."""

from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from builders.aotinductor.program import DeviceProgram, holder
from builders.families import ModelConfig
from builders.quiet import quietly
from river_trt.backends.aotinductor.checks import X86_LEVEL

OPTIONS: dict[str, Any] = {"aot_inductor.package_constants_in_so": False}
# Inductor would compile for this very processor. Our kernels choose their instruction set when they
# run; what Inductor adds (norms, activations) needs no more than AVX2.
CPU_OPTIONS: dict[str, Any] = {
    "cpp.march": X86_LEVEL,
    "cpp.simdlen": 256,
    "cpp.threads": 1,  # of what Inductor adds; the kernels have threads of their own
}
# Sizes of the example step. All differ, so that no two dynamic axes are taken for one.
_BATCH, _SEQ, _CACHE, _NUM_LOGITS = 2, 3, 7, 5


def compile_package(
    program: DeviceProgram, config: ModelConfig, device: str, dtype: torch.dtype, file: Path
) -> None:
    """Write the package; dtype is the caches'. Weights are loaded beside it when it runs."""
    options = OPTIONS | (CPU_OPTIONS if device == "cpu" else {})
    with quietly():
        exported = export(program, config, device, dtype)
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(file), inductor_configs=options
        )


def export(
    program: DeviceProgram, config: ModelConfig, device: str, dtype: torch.dtype
) -> ExportedProgram:
    """The program on its device, with memory for its weights but nothing in it."""
    module = torch.fx.GraphModule(holder(program.planned, device), program.module.graph)
    layers = config.num_layers
    batch, seq = Dim("batch"), Dim("seq")
    cache, num_logits = Dim("cache"), Dim("num_logits")
    shapes = [{0: batch, 1: seq}, {0: batch}, {0: num_logits}, *[None] * 5]
    shapes += [{0: batch, 2: cache}] * (2 * layers)
    inputs = example_inputs(config, device, dtype)
    return torch.export.export(module, inputs, dynamic_shapes=tuple(shapes))


def example_inputs(
    config: ModelConfig, device: str, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    layers = config.num_layers
    cache = (_BATCH, config.num_kv_heads, _CACHE, config.head_dim)
    with torch.device(device):
        return (
            torch.zeros(_BATCH, _SEQ, dtype=torch.int64),
            torch.zeros(_BATCH, dtype=torch.int32),
            torch.zeros(_NUM_LOGITS, dtype=torch.int64),
            torch.zeros(layers),
            torch.zeros(layers, dtype=torch.bool),
            torch.zeros((), dtype=torch.bool),
            torch.zeros(layers, config.hidden_size),
            torch.zeros((), dtype=torch.int32),
            *(torch.zeros(cache, dtype=dtype) for _ in range(2 * layers)),
        )
