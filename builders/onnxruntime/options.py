"""How an engine for ONNX Runtime is built."""

from dataclasses import dataclass
from typing import Literal, get_args

from builders.options import LM_HEAD_BITS, RIVER_ACTIVATION, BackendOptions, RiverActivation, option
from river_trt.manifest import Kernels

CpuCache = Literal["float16", "float32", "int8"]


@dataclass(frozen=True, slots=True)
class OnnxRuntimeOptions(BackendOptions):
    river_activation: RiverActivation = option(**RIVER_ACTIVATION)
    kernels: Kernels | None = option(
        None,
        choices=get_args(Kernels),
        help="of the CPU engine: native ones are compiled once where the engine runs, "
        "onnxruntime's own are slower and need nothing (default: native for every model that "
        "they compute; the result says which)",
    )
    backbone_bits: int | None = option(
        None,
        choices=(8, 16, 32),
        help="of a CPU engine's backbone weights: 32 is exact, 16 is float16, 8 is int8 in the "
        "river's groups (default: 32)",
    )
    kv_cache: CpuCache | None = option(
        None,
        choices=get_args(CpuCache),
        help="what a CPU engine's KV cache holds: float16 is half the memory and is read in half "
        "the time, int8 (a scale a token and head) about a quarter, float32 is exact "
        "(default: float32)",
    )
    lm_head_bits: int | None = option(None, **LM_HEAD_BITS)
