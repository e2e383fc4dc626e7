"""How an engine for ONNX Runtime is built."""

from dataclasses import dataclass
from typing import Literal, get_args

from builders.options import LM_HEAD_BITS, RIVER_ACTIVATION, BackendOptions, RiverActivation, option
from river_trt.errors import RiverError
from river_trt.manifest import Kernels

CpuCache = Literal["float16", "float32", "int8"]


@dataclass(frozen=True, slots=True)
class CpuPrecision:
    """What an engine's numbers are stored in; lm_head_bits None: as the checkpoint has it."""

    backbone_bits: int
    kv_cache: CpuCache
    lm_head_bits: int | None


EXACT = CpuPrecision(32, "float32", None)
# Of native kernels, where nothing is asked for (docs/decisions/default-precision.md).
DEFAULT = CpuPrecision(8, "float16", 8)


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
        "river's groups (default: 8; 32 with --exact or ONNX Runtime's own kernels)",
    )
    kv_cache: CpuCache | None = option(
        None,
        choices=get_args(CpuCache),
        help="what a CPU engine's KV cache holds: float16 is half the memory and is read in half "
        "the time, int8 (a scale a token and head) about a quarter, float32 is exact (default: "
        "float16; float32 with --exact or ONNX Runtime's own kernels)",
    )
    lm_head_bits: int | None = option(None, **LM_HEAD_BITS)
    river_head_bits: int | None = option(
        None,
        choices=(4,),
        help="of the LM head's rare tokens where a token has left the backbone: a river of the "
        "head's own, which costs some thousandths of KL there and nothing at full depth "
        "(default: both banks share one head)",
    )
    exact: bool = option(
        False,
        switch=True,
        help="a CPU engine's backbone and KV cache in float32, its LM head as the checkpoint has "
        "it (default with native kernels: 8 bits, float16 and 8 bits, at a KL of some thousandths)",
    )

    def __post_init__(self) -> None:
        BackendOptions.__post_init__(self)
        if self.exact:
            for name in ("backbone_bits", "kv_cache", "lm_head_bits"):
                if (value := getattr(self, name)) is not None:
                    raise RiverError(
                        f"--exact stores everything as it is, and {name} {value!r} was asked for "
                        "too: give one of them"
                    )

    def precision(self, native: bool) -> CpuPrecision:
        """What is asked for, and where nothing is, the default of these kernels."""
        default = DEFAULT if native and not self.exact else EXACT
        return CpuPrecision(
            self.backbone_bits or default.backbone_bits,
            self.kv_cache or default.kv_cache,
            self.lm_head_bits or default.lm_head_bits,
        )
