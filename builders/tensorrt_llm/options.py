"""How a TensorRT-LLM checkpoint is written."""

from dataclasses import dataclass
from typing import Literal, get_args

from builders.options import LM_HEAD_BITS, BackendOptions, option

HalfDtype = Literal["float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class TensorRTLLMOptions(BackendOptions):
    tensor_parallel: int = option(
        1,
        flag="--tp",
        metavar="N",
        commands=("convert",),
        help="GPUs that share the model, 1 to 8 (default: 1)",
    )
    dtype: HalfDtype = option(
        "float16",
        choices=get_args(HalfDtype),
        commands=("build", "convert"),
        help="of activations, backbone and KV cache (default: float16, which Gemma refuses)",
    )
    lm_head_bits: int | None = option(None, **LM_HEAD_BITS)
