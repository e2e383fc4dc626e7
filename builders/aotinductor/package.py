"""Compiling a device's program to a .pt2 package, without its weights."""

from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from builders.aotinductor.program import DeviceProgram, holder
from builders.example_step import example_step
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
    with torch.device(device):
        inputs, caches = example_step(config, dtype)
    return torch.export.export(module, (*inputs, *caches), dynamic_shapes=tuple(shapes))
